#!/usr/bin/env bash
# Measures on a GPU what docs/full_size.md calls "not measured yet", with random weights of the full size; 12 minutes.
#
#   benchmarks/gpu.sh OUT
#
# Each measurement is a JSON file of its own in OUT, written when it ends, so the script can be stopped anywhere and
# started again: what is there is left out. One that fails or takes too long leaves OUT/NAME.log and the others go on.
# Wants 20 GB of disk in OUT for a moment, for the checkpoint whose loading is measured.
#
# A dry run on a CPU, with the same kinds of blocks at sizes of no use, takes a minute or two and every path of the above
# but the GPU's own:
#
#   DRY_RUN=1 benchmarks/gpu.sh OUT
#
# PRESET, DEVICE, GROUPS_MEASURED, STEPS and LIMIT (seconds of a measurement) can be given one by one.
set -u
out=${1:?usage: benchmarks/gpu.sh OUT}
if [ -n "${DRY_RUN:-}" ]; then
  preset=micro device=cpu groups=1 steps=1
else
  preset=calico-7b device=cuda groups=16 steps=5
fi
preset=${PRESET:-$preset} device=${DEVICE:-$device} groups=${GROUPS_MEASURED:-$groups} steps=${STEPS:-$steps}
limit=${LIMIT:-180} python=${PYTHON:-python}
mkdir -p "$out"

if [ "$device" != cpu ] && ! "$python" -c "import sys, torch; sys.exit(not torch.cuda.is_available())" 2>/dev/null; then
  echo "$python has no torch that finds an NVIDIA GPU; activate the environment, or DRY_RUN=1 tries the script on a CPU"
  exit 2
fi

measure() { # NAME COMMAND...: the command is given --json FILE
  local name=$1 file="$out/$1.json"
  shift
  [ -e "$file" ] && { echo "$name: is there"; return; }
  local started=$SECONDS
  if timeout "$limit" "$@" --json "$file.part" >"$out/$name.log" 2>&1 && [ -s "$file.part" ]; then
    mv "$file.part" "$file"
    echo "$name: done in $((SECONDS - started)) s"
  else
    [ -s "$file.part" ] && mv "$file.part" "$out/$name.failed.json" # a verb whose answer is no writes its report too
    rm -f "$file.part"
    echo "$name: failed after $((SECONDS - started)) s; $out/$name.log says why"
  fi
}

four_bits=
"$python" -c "import bitsandbytes" 2>/dev/null && four_bits=1
[ -n "$four_bits" ] || echo "4 bits: left out, bitsandbytes is not installed"
sizes=(--batch-sizes 1 4)
[ "$groups" -lt 4 ] && sizes=(--batch-sizes 1)
model=("$python" -m scripts.benchmark model --preset "$preset" --device "$device" --groups "$groups" "${sizes[@]}")
adapter=("$python" -m scripts.benchmark train --preset "$preset" --mode adapter --gradient-checkpointing --images 2 --steps "$steps")

measure serving "${model[@]}"
[ -n "$four_bits" ] && measure training-4-bits "${adapter[@]}" --bits 4
[ -n "$four_bits" ] && measure serving-4-bits "${model[@]}" --llm-bits 4
measure training "${adapter[@]}"
if [ ! -e "$out/doctor.json" ]; then # loading from disk, one group, one step, memory beside its estimate
  timeout "$limit" "$python" -m benchmarks.checkpoint "$out/checkpoint" --preset "$preset" --device "$device" >"$out/checkpoint.log" 2>&1
fi
measure doctor "$python" -m scripts.weights doctor "$out/checkpoint" --device "$device"
rm -rf "$out/checkpoint"
measure process-group "$python" -m benchmarks.process_group --device "$device"
measure serving-8-bits "${model[@]}" --llm-bits 8
if [ -n "${DRY_RUN:-}" ]; then
  echo "serving-compiled: left out of a dry run, whose time it would double"
else
  measure serving-compiled "${model[@]}" --compiled
fi
ls "$out"/*.json >/dev/null 2>&1 || { echo "nothing was measured"; exit 1; }
