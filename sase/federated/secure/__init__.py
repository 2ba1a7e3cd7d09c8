"""Secure aggregation: the server computes the weighted mean of the silos' updates and sees no update.

After Bonawitz et al. 2017 (doi 10.1145/3133956.3133982), in the variant against a server that deviates from the
protocol: pairwise masks that cancel in the sum, a self mask per silo, Shamir shares for silos that drop out, and keys
that are signed by the silos' registered keys. Start reading at :mod:`sase.federated.secure.silo`.

The protocol (``silo``, ``server`` and what they import) knows no networks and no files but a silo's own state;
``rounds`` and ``participant`` connect it with the rounds of a federation. None of these modules imports Flower.
"""
