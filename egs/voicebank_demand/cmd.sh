# Sourced by run.sh: which program runs the jobs of a stage. All of them are called as Kaldi's are:
#   $cmd [--mem 4G] [--num-threads 4] [--gpu 1] [--time 4:0:0] [--max-jobs-run 10] [JOB=1:N] LOG command...
cmd_backend=local

case $cmd_backend in
  local) export train_cmd=run_local.py decode_cmd=run_local.py ;;
  *) echo "cmd.sh: no such cmd_backend: $cmd_backend; there is local" >&2; exit 1 ;;
esac
