# Sourced by a script after it has set its options to their defaults: `. utils/parse_options.sh`.
#
# --stop-stage 3 and --stop_stage 3 both set $stop_stage. An option is a variable that is set, and is named in
# $help_message where there is one, which --help prints. A default that is true or false, or a whole number, wants
# such a value. --config FILE is sourced first, whatever its place. From the first word on that is no option, all stays
# in "$@".

_refuse() {
  echo "$0: $*" >&2
  exit 1
}

_set_option() {  # _set_option OPTION VALUE
  local name=${1#--} help=${help_message:---${1#--}}
  name=${name//-/_}
  [[ $name =~ ^[a-z][a-z0-9_]*$ && -n ${!name+set} && ${help//-/_} =~ __$name([^a-z0-9_]|$) ]] ||
    _refuse "no such option: $1; --help names them all"
  [ $# -eq 2 ] || _refuse "$1 needs a value"
  if [[ ${!name} =~ ^(true|false)$ && ! $2 =~ ^(true|false)$ ]]; then
    _refuse "$1 is true or false, not '$2'"
  elif [[ ${!name} =~ ^-?[0-9]+$ && ! $2 =~ ^-?[0-9]+$ ]]; then
    _refuse "$1 is a whole number, not '$2'"
  elif [[ $name =~ cmd$ && -z $2 ]]; then
    _refuse "$1 is the program that runs jobs, it cannot be empty"
  fi
  printf -v "$name" '%s' "$2"
}

for ((_i = 1; _i <= $#; _i++)); do
  if [ "${!_i}" = --config ]; then
    _next=$((_i + 1))
    [ -f "${!_next:-}" ] || _refuse "--config needs a file, '${!_next:-}' is none"
    # shellcheck disable=SC1090
    . "${!_next}"
  fi
done

while [ $# -gt 0 ]; do
  case $1 in
    -h | --help) printf '%s\n' "${help_message:-there is no help for $0}"; exit 0 ;;
    --*=*) _refuse "write '${1%%=*} ${1#*=}', not '$1'" ;;
    --config) shift 2 ;;
    --*) _set_option "${@:1:2}"; shift 2 ;;
    -?*) _refuse "no such option: $1; --help names them all" ;;
    *) break ;;
  esac
done
