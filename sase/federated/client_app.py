"""Alias of :mod:`sase.federated.flower.client_app`: the name that silos of version 0.1 check before they run an app.

Kept until version 1.0; a server and its silos need not be upgraded on the same day.
"""

from sase.federated.flower.client_app import app

__all__ = ["app"]
