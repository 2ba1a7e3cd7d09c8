"""Findings of ``sase doctor``."""

from sase.federated.doctor.findings import OK


def by_check(findings):
    """Return {check: its finding, or the list of them}; each is one line, and has a remedy unless all is well."""
    found = {}
    for finding in findings:
        assert "\n" not in str(finding)
        assert finding.remedy or finding.status == OK
        found.setdefault(finding.check, []).append(finding)
    return {name: of[0] if len(of) == 1 else of for name, of in found.items()}
