# Sourced by run.sh: the program that runs the jobs of the stages. Change only this line:
cmd_backend=local # local: this machine; slurm or sge: a cluster, described in conf/slurm.conf or conf/sge.conf

# All have the interface of Kaldi's runners, see utils/README.md:
#   $cmd [--mem 4G] [--num-threads 4] [--gpu 1] [--time 4:0:0] [--max-jobs-run 10] [JOB=1:N] LOG command...
case $cmd_backend in
  local | slurm | sge)
    export train_cmd="run_$cmd_backend.py --mem 2G" decode_cmd="run_$cmd_backend.py --mem 2G"
    export cuda_cmd="run_$cmd_backend.py --mem 8G --num-threads 4" # stage 3, per machine, on GPU or CPU
    ;;
  *) echo "cmd.sh: no such cmd_backend: $cmd_backend; choose local, slurm or sge" >&2; exit 1 ;;
esac
