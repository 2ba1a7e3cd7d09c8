# Sourced by run.sh: which program runs the jobs of the stages. This is the one word to change:
cmd_backend=local # local: this machine; slurm or sge: a cluster, as conf/slurm.conf or conf/sge.conf describes it

# All of them are called as Kaldi's are, and utils/README.md says more:
#   $cmd [--mem 4G] [--num-threads 4] [--gpu 1] [--time 4:0:0] [--max-jobs-run 10] [JOB=1:N] LOG command...
case $cmd_backend in
  local | slurm | sge)
    export train_cmd="run_$cmd_backend.py --mem 2G" decode_cmd="run_$cmd_backend.py --mem 2G"
    export cuda_cmd="run_$cmd_backend.py --mem 8G --num-threads 4" # stage 3, of each machine, on a processor as well
    ;;
  *) echo "cmd.sh: no such cmd_backend: $cmd_backend; there are local, slurm and sge" >&2; exit 1 ;;
esac
