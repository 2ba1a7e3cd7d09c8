"""What another user of the machine sees of a federation's processes: their TCP ports, sockets, files, command lines."""

import os
import socket
import stat
from contextlib import suppress
from functools import partial
from pathlib import Path

import grpc
import httpx

NOBODY = 65534
RAY_CALLS = (
    "/ray.rpc.InternalKVGcsService/InternalKVKeys",
    "/ray.rpc.CoreWorkerService/PushTask",
    "/ray.rpc.NodeManagerService/GetNodeStats",
    "/ray.rpc.ObjectManagerService/Push",
)


def listening_ports(pids):
    """Return the TCP ports on which these processes listen, and an address of each."""
    inodes = {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            if fields[3] == "0A":  # LISTEN
                address, port = fields[1].split(":")
                inodes[fields[9]] = int(port, 16), _address(address)
    return dict(inodes[inode] for inode in _socket_inodes(pids) if inode in inodes)


def ports_open_to_the_network(pids):
    """Return the TCP ports on which these processes listen, not on the loopback interface alone."""
    loopback, found = ("0100007F", "0" * 24 + "01000000"), {}
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        for line in Path(table).read_text().splitlines()[1:]:
            fields = line.split()
            address, port = fields[1].split(":")
            if fields[3] == "0A" and address not in loopback:
                found[fields[9]] = int(port, 16)
    return [found[inode] for inode in _socket_inodes(pids) if inode in found]


def _address(text):
    """Return the address by which to connect to one that /proc/net/tcp lists, as little-endian words."""
    words = bytes.fromhex(text)
    if len(words) == 4 and any(words):
        return socket.inet_ntoa(words[::-1])
    return "127.0.0.1"  # any address, or an IPv6 one, which Ray uses for any


def unix_sockets(pids):
    """Return the paths of the Unix sockets on which these processes listen."""
    paths = {}
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        fields = line.split()
        if len(fields) == 8 and fields[3] == "00010000":  # bound and listening
            paths[fields[6]] = fields[7]
    return {paths[inode] for inode in _socket_inodes(pids) if inode in paths}


def _socket_inodes(pids):
    for pid in pids:
        with suppress(OSError):  # exited meanwhile
            for link in Path(f"/proc/{pid}/fd").iterdir():
                target = os.readlink(link)
                if target.startswith("socket:["):
                    yield target[8:-1]


def command_lines():
    """Return the command lines of all processes of the machine."""
    lines = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            lines.append(path.read_bytes())
    return lines


def accessible_sockets(paths):
    """Return those of these Unix sockets to which another user can connect; requires root."""
    return {path for path in paths if _as_nobody(partial(_connect, path))}


def _connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


def _as_nobody(call):
    """Return whether ``call`` raises no OSError in a child process that belongs to another user."""
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            call()
        except OSError:
            os._exit(1)
        finally:
            os._exit(2 if os.getuid() != NOBODY else 0)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert status in (0, 1), "the child process is still this user's"
    return status == 0


def answered_by_ray(ports):
    """Return the calls, of those with which Ray starts code or hands out data, that are answered without a token.

    Args:
        ports: of :func:`listening_ports`.

    Raises:
        AssertionError: a port neither refuses such a call for its missing token nor is a port of Ray.
    """
    answered = []
    for port, address in ports.items():
        codes = {call: _call_ray(f"{address}:{port}", call) for call in RAY_CALLS}
        answered += [f"{port}{call}" for call, code in codes.items() if code == grpc.StatusCode.OK]
        if grpc.StatusCode.UNAUTHENTICATED not in codes.values():  # its HTTP server
            response = httpx.post(f"http://{address}:{port}/get_or_create_runtime_env")
            assert response.status_code == 401, f"port {port}: {codes}, {response.text}"
    return answered


def _call_ray(where, call):
    with grpc.insecure_channel(where) as channel:
        try:
            channel.unary_unary(call)(b"", timeout=10)
        except grpc.RpcError as error:
            return error.code()
        return grpc.StatusCode.OK


def exposed(folder):
    """Return the paths in a folder, and the folder, to which other users have any access."""
    return [path for path in [folder, *folder.rglob("*")] if stat.S_IMODE(path.lstat().st_mode) & 0o077]
