"""The audit trail of a federation: what it holds, and that every change of it and of what it covers is found."""

import base64
import hashlib
import json
import shutil
import sys

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

from helpers.federation import fed_config, train_config
from sase.bin.main import main
from sase.errors import InputError
from sase.federated import server as server_module
from sase.federated.audit import FILE, Signer
from sase.federated.audit_verification import verify
from sase.federated.certificates import fingerprint_of_certificate, make_certificates, read_certificate
from sase.federated.inproc import local_exchange, local_silos
from sase.federated.rounds import run_rounds
from sase.federated.server import Server
from sase.model import load_model, save_model
from sase.training.trainer import discard_training

ROUNDS = 3


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    folder = tmp_path_factory.mktemp("certificates")
    make_certificates(folder / "ours", ["localhost"], 0)
    make_certificates(folder / "others", ["localhost"], 0)
    return folder


@pytest.fixture(scope="module")
def federate(silos_dir, dev_set, certificates):
    """``federate(exp, rounds, signer)`` trains or resumes in a folder; ``signer`` names certificates, None: no key."""

    def run(exp, rounds=ROUNDS, signer="ours"):
        server = Server(train_config(), fed_config(num_rounds=rounds), dev_set, exp)
        server.audit.signer = signer and Signer.read(certificates / signer / "server")
        run_rounds(server, local_exchange(local_silos(silos_dir, 3, exp)))

    return run


@pytest.fixture(scope="module")
def trained(federate, tmp_path_factory):
    exp = tmp_path_factory.mktemp("trained") / "exp"
    federate(exp)
    return exp


@pytest.fixture
def exp(trained, tmp_path):
    """A copy of a trained experiment to tamper with."""
    return shutil.copytree(trained, tmp_path / "exp")


def lines(path):
    return path.read_text().splitlines(keepends=True)


def sha256(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def test_every_round_is_chained_and_signed(trained, certificates):
    """By the definitions in docs/architecture.md, without the code that writes or verifies it."""
    entries = [json.loads(line) for line in lines(trained / FILE)]
    records = [json.loads(line) for line in lines(trained / "rounds.jsonl")]
    assert [entry["kind"] for entry in entries] == ["started", "key", *["round"] * ROUNDS]
    certificate = x509.load_pem_x509_certificate((certificates / "ours/server/server.crt").read_bytes())
    assert entries[1]["certificate"].encode() == (certificates / "ours/server/server.crt").read_bytes()
    previous = ""
    for number, entry in enumerate(entries, 1):
        content = {name: value for name, value in entry.items() if name not in ("hash", "signature")}
        assert (entry["number"], entry["previous"], entry["hash"]) == (number, previous, sha256(content))
        signature = base64.b64decode(entry["signature"])
        certificate.public_key().verify(signature, entry["hash"].encode(), ec.ECDSA(hashes.SHA384()))
        previous = entry["hash"]
    assert [entry["record"] for entry in entries[2:]] == [sha256(record) for record in records]
    digest, state = hashlib.sha256(), load_model(trained / "last.pt").state_dict()
    for name in sorted(state):
        array = state[name].numpy()
        digest.update(f"{name} {array.dtype.str} {array.shape}\n".encode() + array.tobytes())
    assert entries[-1]["model"] == digest.hexdigest()


def test_an_untouched_experiment_is_verified(trained, certificates, monkeypatch, capsys):
    result = verify(trained)
    assert (result.rounds, result.before, result.trusted) == ([1, 2, 3], 0, False)
    assert result.signers == [fingerprint_of_certificate(read_certificate(certificates / "ours/server/server.crt"))]
    assert result.models["last.pt"] == ROUNDS
    words = ["sase", "audit", str(trained), "--certificates", str(certificates / "ours")]
    monkeypatch.setattr(sys, "argv", words)
    with pytest.raises(SystemExit) as end:
        main()
    assert not end.value.code
    assert (
        f"3 rounds, chained, signed by {result.signers[0]}; last.pt is the model of round 3" in capsys.readouterr().out
    )


def changed(line, **values):
    return json.dumps({**json.loads(line), **values}) + "\n"


def rehashed(line, **values):
    """A changed entry with the hash of its new content."""
    entry = {**json.loads(line), **values}
    content = {name: value for name, value in entry.items() if name not in ("hash", "signature")}
    return json.dumps({**entry, "hash": sha256(content)}) + "\n"


TAMPERED = {  # change of the lines of a file: what is said
    "a record": (
        "rounds.jsonl",
        lambda x: [x[0], changed(x[1], dev_si_snr=9.0), x[2]],
        "rounds.jsonl:2: round 2 was changed",
    ),
    "no record": ("rounds.jsonl", lambda x: [x[0], x[2]], "rounds.jsonl:2: round 2 is missing (here is round 3)"),
    "no last record": ("rounds.jsonl", lambda x: x[:2], "rounds.jsonl: round 3 is missing at its end"),
    "records": (
        "rounds.jsonl",
        lambda x: [x[1], x[0], x[2]],
        "rounds.jsonl:1: round 2 where round 1 belongs: the order was",
    ),
    "one more": (
        "rounds.jsonl",
        lambda x: [*x, changed(x[2], round=4)],
        "rounds.jsonl:4: round 4 is not in audit.jsonl",
    ),
    "an entry": (FILE, lambda x: [*x[:3], changed(x[3], record="0"), x[4]], "audit.jsonl:4: was changed: its hash"),
    "an entry with its hash": (
        FILE,
        lambda x: [*x[:3], rehashed(x[3], record="0"), x[4]],
        "audit.jsonl:4: not signed by",
    ),
    "the first entry": (
        FILE,
        lambda x: [rehashed(x[0], round=2), *x[1:]],
        "audit.jsonl:1: was changed: line 2 follows",
    ),
    "the last entry": (FILE, lambda x: [*x[:4], rehashed(x[4], model="0")], "audit.jsonl:5: not signed by"),
    "no entry": (FILE, lambda x: [*x[:3], x[4]], "audit.jsonl:4: line 4 is missing (here is line 5)"),
    "no first entry": (FILE, lambda x: x[1:], "audit.jsonl:1: line 1 is missing (here is line 2)"),
    "no last entry": (FILE, lambda x: x[:4], "rounds.jsonl:3: round 3 is not in audit.jsonl"),
    "entries": (FILE, lambda x: [*x[:2], x[3], x[2], x[4]], "audit.jsonl:3: line 4 where line 3 belongs: the order"),
    "an entry twice": (FILE, lambda x: [*x, x[4]], "audit.jsonl:6: line 6 is missing (here is line 5)"),
    "no JSON": (FILE, lambda x: [*x[:3], x[3][:-9] + "\n", x[4]], "audit.jsonl:4: not valid JSON"),
    "nothing": (FILE, lambda x: [], "rounds.jsonl:1: round 1 is not in audit.jsonl"),
}


@pytest.mark.parametrize("case", TAMPERED)
def test_the_first_changed_missing_or_reordered_line_is_named(exp, case):
    name, change, said = TAMPERED[case]
    (exp / name).write_text("".join(change(lines(exp / name))))
    with pytest.raises(InputError) as error:
        verify(exp)
    assert str(error.value).startswith(f"{exp}/{said}")
    assert "\n" not in str(error.value)


def test_spaces_and_the_order_of_keys_do_not_matter(exp):
    path = exp / "rounds.jsonl"
    records = [json.loads(line) for line in lines(path)]
    path.write_text("".join(json.dumps(dict(reversed(record.items())), indent=None) + "\n" for record in records))
    assert verify(exp).rounds == [1, 2, 3]


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_another_model_is_found(exp, name):
    model = load_model(exp / name)
    next(model.parameters()).data[(0,) * next(model.parameters()).dim()] += 1e-6
    save_model(model, exp / name)
    with pytest.raises(InputError, match=f"{name}: not the model of round"):
        verify(exp)


@pytest.mark.recipe
def test_a_chain_that_somebody_else_signs_or_nobody_is_found_by_the_authority(federate, certificates, tmp_path):
    authority = certificates / "ours/ca.crt"
    federate(tmp_path / "forged", 1, "others")
    verify(tmp_path / "forged")  # nobody can tell without the authority
    with pytest.raises(InputError, match=r"audit\.jsonl:2: a key whose certificate .*ours/ca\.crt did not sign"):
        verify(tmp_path / "forged", authority)
    federate(tmp_path / "unsigned", 1, None)
    assert "not signed" in str(verify(tmp_path / "unsigned"))
    with pytest.raises(InputError, match=r"audit\.jsonl:2: not signed; anyone"):
        verify(tmp_path / "unsigned", authority)


def test_a_renewed_certificate_continues_the_chain(federate, certificates, exp, tmp_path):
    shutil.copytree(certificates / "ours", tmp_path / "ours")
    make_certificates(tmp_path / "ours", ["localhost", "elsewhere"], 0)
    federate(exp, 4, tmp_path / "ours")
    result = verify(exp, certificates / "ours/ca.crt")
    assert (result.rounds, len(result.signers), result.trusted) == ([1, 2, 3, 4], 2, True)


@pytest.mark.recipe
def test_a_server_killed_while_saving_resumes_the_chain(federate, tmp_path, trained, monkeypatch):
    """Killed between the entry and the state, and in the middle of an entry: the round is repeated."""

    class KilledError(Exception):
        pass

    def kill(path, state):
        raise KilledError

    federate(tmp_path, 1)
    for tail in ("", '{"number": 7, "ki'):
        with monkeypatch.context() as patched:
            patched.setattr(server_module, "save_checkpoint", kill)
            with pytest.raises(KilledError):
                federate(tmp_path, ROUNDS)
        with pytest.raises(InputError, match=r"rounds\.jsonl: round 2 is missing at its end; if the server was killed"):
            verify(tmp_path)
        with open(tmp_path / FILE, "a") as file:
            file.write(tail)
    federate(tmp_path, ROUNDS)
    assert verify(tmp_path).rounds == [1, 2, 3]
    kinds = [json.loads(line)["kind"] for line in lines(tmp_path / FILE)]
    assert kinds.count("resumed") == 2
    assert (tmp_path / "rounds.jsonl").read_text() == (trained / "rounds.jsonl").read_text()


def test_experiments_without_a_chain_say_so_and_begin_one_when_resumed(federate, exp):
    (exp / FILE).unlink()
    with pytest.raises(InputError, match=r"no audit\.jsonl: not a federation, or one of a version without"):
        verify(exp)
    federate(exp, 4)
    result = verify(exp)
    assert (result.rounds, result.before) == ([4], 3)
    assert "rounds 1 to 3 were completed before the chain was started" in str(result)


def test_a_server_does_not_continue_a_changed_chain(federate, exp):
    x = lines(exp / FILE)
    (exp / FILE).write_text("".join([*x[:4], changed(x[4], model="0")]))
    with pytest.raises(InputError, match="its last line was changed"):
        federate(exp, 4)


def test_restarting_discards_the_chain(federate, exp):
    discard_training(exp)
    assert not (exp / FILE).exists()
    federate(exp, 1)
    assert verify(exp).rounds == [1]
