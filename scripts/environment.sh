# Sourced by the other scripts: runs setup, then sets root, python and COMFYUI_PATH.
root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
"$root/scripts/setup"
python="$root/.venv/bin/python"
COMFYUI_PATH="$(cd "${COMFYUI_PATH:-$root/.comfyui}" && pwd)"
export COMFYUI_PATH
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # threads that spin while they wait make a busy machine up to 6 times slower
