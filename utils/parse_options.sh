# Sourced by a script to parse its command line, after it has set its options to their defaults.
#
# --stop-stage 3 and --stop_stage 3 both set $stop_stage. An option is a variable that is set and, if $help_message is
# set, named there; --help prints it. If the default is true or false, or a whole number, so must the value be. --config
# FILE is sourced before all other options. The arguments from the first non-option on stay in "$@".

_fail() {
  echo "$0: $*" >&2
  exit 1
}

_set_option() {  # _set_option OPTION VALUE
  local name=${1#--} help=${help_message:---${1#--}}
  name=${name//-/_}
  [[ $name =~ ^[a-z][a-z0-9_]*$ && -n ${!name+set} && ${help//-/_} =~ __$name([^a-z0-9_]|$) ]] ||
    _fail "no such option: $1; see --help"
  [ $# -eq 2 ] || _fail "$1 needs a value"
  if [[ ${!name} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
    _fail "$1 must be true or false, not '$2'"
  elif [[ ${!name} =~ ^-?[0-9]+$ && ! $2 =~ ^-?[0-9]+$ ]]; then
    _fail "$1 must be an integer, not '$2'"
  elif [[ $name =~ cmd$ && -z $2 ]]; then
    _fail "$1 must name the program that runs jobs"
  fi
  printf -v "$name" '%s' "$2"
}

for ((_i = 1; _i <= $#; _i++)); do
  if [ "${!_i}" = --config ]; then
    _next=$((_i + 1))
    [ -f "${!_next:-}" ] || _fail "--config: file not found: '${!_next:-}'"
    # shellcheck disable=SC1090
    . "${!_next}"
  fi
done

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) printf '%s\n' "${help_message:-no help for $0}"; exit 0 ;;
    --*=*) _fail "use '${1%%=*} ${1#*=}' instead of '$1'" ;;
    --config) shift 2 ;;
    --*) _set_option "${@:1:2}"; shift 2 ;;
    -?*) _fail "no such option: $1; see --help" ;;
    *) break ;;
  esac
done
