#!/usr/bin/env bash
# Measures on a GPU what docs/full_size.md calls "not measured yet", with random weights of the full size; 12 minutes.
#
#   benchmarks/gpu.sh OUT
#
# Each measurement is a JSON file of its own in OUT, written when it ends, so the script can be stopped anywhere and
# started again: what is there is left out. One that fails or takes too long leaves OUT/NAME.log and the others go on.
# PRESET, DEVICE, GROUPS_MEASURED, STEPS and LIMIT (seconds of a measurement) make it smaller, to try the script itself:
#   PRESET=calico-tiny DEVICE=cpu GROUPS_MEASURED=2 STEPS=1 benchmarks/gpu.sh out
set -u
out=${1:?usage: benchmarks/gpu.sh OUT}
preset=${PRESET:-calico-7b} device=${DEVICE:-cuda} groups=${GROUPS_MEASURED:-16} steps=${STEPS:-5} limit=${LIMIT:-180}
python=${PYTHON:-python}
mkdir -p "$out"

measure() { # NAME COMMAND...: the command is given --json FILE
  local name=$1 file="$out/$1.json"
  shift
  [ -e "$file" ] && { echo "$name: is there"; return; }
  local started=$SECONDS
  if timeout "$limit" "$@" --json "$file.part" >"$out/$name.log" 2>&1 && [ -s "$file.part" ]; then
    mv "$file.part" "$file"
    echo "$name: done in $((SECONDS - started)) s"
  else
    rm -f "$file.part"
    echo "$name: failed after $((SECONDS - started)) s; $out/$name.log says why"
  fi
}

sizes=(--batch-sizes 1 4)
[ "$groups" -lt 4 ] && sizes=(--batch-sizes 1)
common=(--preset "$preset" --device "$device" --groups "$groups" "${sizes[@]}")
measure serving "$python" -m scripts.benchmark model "${common[@]}"
measure training "$python" -m scripts.benchmark train --preset "$preset" --mode adapter --gradient-checkpointing --images 2 --steps "$steps"
if "$python" -c "import bitsandbytes" 2>/dev/null; then
  measure serving-4-bits "$python" -m scripts.benchmark model "${common[@]}" --llm-bits 4
  measure training-4-bits "$python" -m scripts.benchmark train --preset "$preset" --mode adapter --bits 4 --gradient-checkpointing --images 2 --steps "$steps"
else
  echo "4 bits: left out, bitsandbytes is not installed"
fi
measure serving-8-bits "$python" -m scripts.benchmark model "${common[@]}" --llm-bits 8
measure process-group "$python" -m benchmarks.process_group --device "$device"
measure serving-compiled "$python" -m scripts.benchmark model "${common[@]}" --compiled
ls "$out"/*.json >/dev/null 2>&1 || { echo "nothing was measured"; exit 1; }
