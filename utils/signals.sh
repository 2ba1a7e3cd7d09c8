# Sourced by scripts that start commands: SIGINT, SIGTERM and SIGHUP to the script end everything that it started.
#
# A shell that is terminated leaves its command running, and one that waits for a command handles no signal. So every
# command runs in the background, in its own process group, while the script waits for it. Ctrl-Z stops both.

background() { # background command...: start a command in its own process group; its PID is $!
  process_group.py "$@" &
}

foreground() { # foreground command...: run a command in its own process group; return its exit status
  background "$@"
  wait "$!"
}

sase() { foreground sase "$@"; }

signal_groups() { # signal_groups SIGNAL: send it to the groups of all background commands
  local pid
  for pid in $(jobs -pr); do
    # Until it leads a group, a command is a shell's background process, which ignores SIGINT.
    send "$1" "-$pid" || send TERM "$pid" || continue # it has ended
  done
}

send() { # send SIGNAL PID: whether there is such a process or group
  kill -s "$1" -- "$2" 2>/dev/null
}

end_by_signal() { # end_by_signal SIGNAL: end all commands, kill what is left of their groups, and exit
  local groups pid tries=100
  groups=$(jobs -pr)
  trap 'tries=0; signal_groups KILL' INT TERM HUP # a second signal
  signal_groups "$1"
  while [ -n "$(jobs -pr)" ]; do wait || continue; done
  for pid in $groups; do
    # A wrapper of a runner may have ended before it; the runner has jobs to end, in groups of their own.
    while ((tries-- > 0)) && send 0 "-$pid"; do sleep 0.1; done
    send KILL "-$pid" || continue
  done
  exit $((128 + $(kill -l "$1")))
}

pause() { # stop, with all commands, until the script is continued
  signal_groups TSTP
  kill -s STOP "$$"
  signal_groups CONT
}

trap 'end_by_signal INT' INT
trap 'end_by_signal TERM' TERM
trap 'end_by_signal HUP' HUP
trap pause TSTP
