"""``python -m sase.federated.flower.warm_client FD``: run the tasks of one silo that arrive on an open socket."""

import socket
import sys


def main() -> None:
    """Import what tasks need and run them until the SuperExec closes the connection or is killed."""
    import sase.federated.client_app
    import sase.federated.silo  # noqa: F401  (with torch, before the first task arrives)
    from sase.federated.flower.patches import NO_ADDRESS, connect_to_socket
    from sase.federated.flower.patches_warm import serve_tasks
    from sase.federated.flower.processes import socket_path

    connect_to_socket(socket_path())
    with socket.socket(fileno=int(sys.argv[1])) as connection:
        serve_tasks(connection, NO_ADDRESS)


if __name__ == "__main__":
    main()
