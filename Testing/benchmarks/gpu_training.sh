#!/usr/bin/env bash
# Train on a GPU machine that has torch but neither the scans nor all packages nor a network.
#
# First where the scans are. Writes data.safetensors and the packages that such a machine lacks into FOLDER, which can
# be copied there (a hundred scans cut to 112 voxels an axis take about 150 MB):
#
#     Testing/benchmarks/gpu_training.sh prepare FOLDER RECIPE [options of scorefusion train]
#
# Then there, from a checkout, in one call; the same call goes on where it stopped:
#
#     Testing/benchmarks/gpu_training.sh run FOLDER OUT RECIPE [options of scorefusion train]
#
# It leaves few files in OUT: bundle.tar (the model), log-STAGE.csv, picture-STAGE.png. For example, eight minutes from the shipped
# weights, with batches for a large GPU:
#
#     Testing/benchmarks/gpu_training.sh run gpu-data out brain-sr --warm-start Resources/Models/brain-sr \
#         --set stages.planes.minutes=8 --set stages.planes.blocks=24 --set data.pool=96 \
#         --set stages.prior=null --set stages.joint=null
#
# EDGE (prepare): voxels kept of each volume along an axis, default 112. PLATFORM, PYTHON_VERSION (prepare): of that
# machine, default manylinux2014_x86_64 and 3.12.
set -euo pipefail
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)"
export PYTHONPATH="$root/ScoreFusion${PYTHONPATH:+:$PYTHONPATH}" PYTHONUNBUFFERED=1
python="${PYTHON:-python3}"
usage() { sed -n '2,/^set /{/^set /d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}" >&2; exit 2; }
[ $# -ge 3 ] || usage
mode="$1" folder="$2"
shift 2
case "$mode" in
prepare)
    mkdir -p "$folder/wheels"
    "$python" -m scorefusion train "$@" --pack "$folder/data.safetensors" --pack-edge "${EDGE:-112}"
    "$python" -m pip download --quiet --no-deps --only-binary :all: --dest "$folder/wheels" \
        --platform "${PLATFORM:-manylinux2014_x86_64}" --python-version "${PYTHON_VERSION:-3.12}" \
        $("$python" -c 'from importlib.metadata import version as v
for name in "monai lightning-fabric lightning-utilities pydantic pydantic-core annotated-types typing-inspection".split():
    print(f"{name}=={v(name)}")')
    du -sh "$folder"
    ;;
run)
    out="$1"
    shift
    [ $# -ge 1 ] || usage
    run="$folder/run-$(basename "$out")"
    mkdir -p "$out"
    if [ ! -d "$folder/packages" ] && compgen -G "$folder/wheels/*.whl" >/dev/null; then
        for wheel in "$folder"/wheels/*.whl; do "$python" -m zipfile -e "$wheel" "$folder/packages"; done
    fi
    # What the machine has itself comes first only where we brought nothing.
    [ ! -d "$folder/packages" ] || export PYTHONPATH="$folder/packages:$PYTHONPATH"
    "$python" -m scorefusion train "$@" --out "$run" --set data.datalist="$(realpath "$folder/data.safetensors")"
    tar -cf "$out/bundle.tar" -C "$run/bundle" .
    for stage in planes fusion volumes joint volume; do
        [ -d "$run/$stage" ] || continue
        cp "$run/$stage/log.csv" "$out/log-$stage.csv"
        cp "$(find "$run/$stage/pictures" -name '*.png' | sort | tail -1)" "$out/picture-$stage.png"
    done
    ls -l "$out"
    ;;
*) usage ;;
esac
