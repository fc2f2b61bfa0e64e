#!/usr/bin/env bash
# The run of docs/results/first-run.md: QM9 conformers → store → teacher → four students → ESOL, FreeSolv, Lipo, three
# seeds each, beside random weights and random forests. About three hours of CPU time in all; stop and start it as you
# like, every step resumes.
# usage: first_run.sh QM9.npz OUT [PROCESSES]
set -euo pipefail
qm9=$1 out=$2 processes=${3:-2}
data=$(cd "$(dirname "$0")/.." && pwd)/data/ogb
export OMP_NUM_THREADS=1
mkdir -p "$out/logs" && cd "$out"

dnd prepare "$qm9" -o store --hydrogens teacher_all_student_heavy --sample 20000 --jobs 2 --resume
dnd denoise store -o teacher --recipe small --resume \
  teacher.width=64 teacher.num_layers=5 loop.epochs=6 loop.batch_size=64 loop.warmup_epochs=0.3
tokengt="--student tokengt student.width=64 student.num_layers=6 student.num_heads=4 loop.epochs=15"
gine="--student gine student.width=128 student.num_layers=4 loop.epochs=20"
distill="dnd distill store --teacher teacher --resume loop.batch_size=64 loop.learning_rate=1e-3"
for level in node graph; do
  $distill -o $level-tokengt --level $level $tokengt
  $distill -o $level-gine --level $level $gine
done

finetune() { # data set, label column, encoder folder or random, student, seed
  local name=$3-$1-seed$5 baselines=false epochs=30
  [ "$3-$5" = node-gine-1 ] && baselines=true
  [ "$1" = lipo ] && epochs=15 # four times the molecules of ESOL
  [ "$3" = random ] && name=random-$4-$1-seed$5
  local student=(student.name=gine student.width=128 student.num_layers=4)
  [ "$4" = tokengt ] && student=(student.name=tokengt student.width=64 student.num_layers=6 student.num_heads=4)
  [ "$3" = random ] || student=()
  dnd finetune "$data/ogbg_mol$1/mapping/mol.csv.gz" -o "models/$name" --target-columns "$2" --encoder "$3" --resume \
    --recipe small --seed "$5" "${student[@]}" loop.epochs=$epochs loop.learning_rate=1e-3 layer_decay=1.0 baselines=$baselines jobs=1
}
export -f finetune && export data
for seed in 1 2 3; do
  for set in "esol|measured log solubility in mols per litre" "freesolv|expt" "lipo|exp"; do
    for student in gine tokengt; do
      for encoder in node-$student graph-$student random; do
        printf '%s\0%s\0%s\0%s\0%s\0' "${set%%|*}" "${set#*|}" $encoder $student $seed
      done
    done
  done
done | xargs -0 -n 5 -P "$processes" bash -euc 'finetune "$@" > "logs/$1-$3-$4-$5.log" 2>&1 || echo "failed: $*"' finetune
