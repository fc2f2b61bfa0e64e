#!/bin/sh
# The encoder at scale, again from nothing or on from what was kept: days of one core, over as many sessions as it takes.
#
#   benchmarks/encoder_run.sh run DATA OUT [SETTING ...]   start, or go on after a stop or a kill
#   benchmarks/encoder_run.sh pack OUT KEPT                 the teacher, or its newest checkpoint (some 3 MB), to KEPT
#   benchmarks/encoder_run.sh restore KEPT OUT              that teacher to a new OUT; then `run`
#
# DATA has qm9/qm9_3d.npz (with qm9_props.npz), druglike_etkdg/druglike_etkdg.npz, cascade_dft/cascade_dft.npz,
# equireact_dft/equireact_dft.npz and smiles/druglike_pool.csv.gz; data/README.md says what they are. Everything else
# is in the repository: labels of quantum chemistry (data/encoder/), measured labels and the lists of what to leave out.
# OUT is as `dnd pretrain-base --recipe cpu-long` makes it. In order: stores of conformers, the teacher, the other
# stores, the student. Stores aren't kept: equal inputs give equal bytes, so a restored teacher goes on with new ones.
set -eu
usage() { sed -n '2,7p' "$0" >&2; exit 2; }
[ $# -ge 3 ] || usage
what=$1 from=$2 to=$3
shift 3
case $what in
run)
  export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" MKL_NUM_THREADS="${MKL_NUM_THREADS:-1}"
  exec dnd pretrain-base \
    --inputs "$from/qm9/qm9_3d.npz" --inputs "$from/druglike_etkdg/druglike_etkdg.npz" \
    --inputs "$from/cascade_dft/cascade_dft.npz" --inputs "$from/equireact_dft/equireact_dft.npz" \
    --inputs "$from/smiles/druglike_pool.csv.gz" -o "$to" --recipe cpu-long --allow-change "$@"
  ;;
pack)
  rm -rf "$to/teacher"
  mkdir -p "$to/teacher"
  if [ -f "$from/teacher/manifest.json" ]; then
    for name in manifest.json config.json card.md run.json model.safetensors noise_head.safetensors; do
      cp "$from/teacher/$name" "$to/teacher/"
    done
  else
    newest=$(ls -d "$from"/teacher/checkpoints/step-* | sort | tail -n 1)
    mkdir "$to/teacher/checkpoints"
    cp -r "$newest" "$to/teacher/checkpoints/"
    cp "$from/teacher/run.json" "$to/teacher/"
  fi
  grep -h '"kind": "evaluation"' "$from/teacher/metrics.jsonl" > "$to/teacher/metrics.jsonl" || true
  ;;
restore)
  mkdir -p "$to"
  cp -r "$from/teacher" "$to/teacher"
  ;;
*) usage ;;
esac
