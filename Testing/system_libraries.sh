#!/usr/bin/env bash
# System libraries that Qt and VTK need to draw without a screen. Installs what is missing when run as root on a system with
# apt; elsewhere it names the packages and goes on, and the tests that need them fail with Qt's own words.
set -euo pipefail

declare -A package_of=(
    [libEGL.so.1]=libegl1
    [libEGL_mesa.so.0]=libegl-mesa0
    [libGL.so.1]=libgl1
    [libGLX_mesa.so.0]=libglx-mesa0
    [libX11.so.6]=libx11-6
    [libXrender.so.1]=libxrender1
    [libxkbcommon.so.0]=libxkbcommon0
    [libdbus-1.so.3]=libdbus-1-3
    [libfontconfig.so.1]=libfontconfig1
    [libfreetype.so.6]=libfreetype6
    [libglib-2.0.so.0]=libglib2.0-0
    [libgssapi_krb5.so.2]=libgssapi-krb5-2
)

[ "$(uname -s)" = Linux ] || exit 0
known=$(PATH="$PATH:/sbin:/usr/sbin" ldconfig -p)
missing=()
for library in "${!package_of[@]}"; do
    [[ $known == *"$library "* ]] || missing+=("${package_of[$library]}")
done
[ ${#missing[@]} -gt 0 ] || exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "Installing system libraries for drawing without a screen: ${missing[*]}"
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq >/dev/null
    # With them, the software renderer and a font, which are loaded by name and leave no trace above.
    apt-get install -y -qq --no-install-recommends "${missing[@]}" libgl1-mesa-dri fonts-dejavu-core >/dev/null
else
    echo "Missing system libraries for the tests of the Slicer module: ${missing[*]}" >&2
    echo "Install them with your package manager, for example: sudo apt-get install ${missing[*]}" >&2
fi
