"""Federated training: silos that never send audio, a server that never sees any, and the engines between them.

Every engine is a module of :data:`ENGINES` with a function that the command ``sase federate --engine NAME`` calls as

    run(train_config, fed_config, silos_dir, dev_set, exp_dir, device, options)

with a :class:`sase.training.config.TrainConfig`, a :class:`sase.federated.config.FederatedConfig` whose ``num_silos``
is right, the folder with ``silo0`` ... (None where the silos are elsewhere), the server's development set (a dump
directory), the experiment folder, the name of a torch device, and ``options``, a mapping of the engine's own settings
(``--engine-option port=18000``). It returns when every round has advanced and raises otherwise. Only modules of
:mod:`sase.federated.flower` import or start flwr.
"""

ENGINES = {
    "inproc": "sase.federated.inproc",
    "simulation": "sase.federated.flower.simulation",
    "deployment": "sase.federated.flower.deployment",
}
