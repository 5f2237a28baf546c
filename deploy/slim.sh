#!/bin/sh
# Takes out of an environment what a server never loads: `deploy/slim.sh /opt/sluice`. About 55 MB of 190.
set -eu
packages=$(echo "$1"/lib/python3.*/site-packages)
find "$packages" -type d -name tests -prune -exec rm -rf {} +
# developers' tools of ONNX Runtime, and its C library: the Python binding has its own copy inside
rm -rf "$packages"/onnxruntime/transformers "$packages"/onnxruntime/quantization "$packages"/onnxruntime/tools \
       "$packages"/onnxruntime/datasets "$packages"/onnxruntime/backend "$packages"/onnxruntime/capi/libonnxruntime.so*
rm -rf "$packages"/numpy/f2py "$packages"/numpy/distutils
# formats and fonts that no request can bring: pictures come as PNG or JPEG, and Pillow looks for the rest only when asked
rm -rf "$packages"/PIL/_avif*.so "$packages"/PIL/_webp*.so "$packages"/PIL/_imagingft*.so \
       "$packages"/pillow.libs/libavif* "$packages"/pillow.libs/libwebp* "$packages"/pillow.libs/libsharpyuv* \
       "$packages"/pillow.libs/libharfbuzz* "$packages"/pillow.libs/libfreetype* "$packages"/pillow.libs/libpng16* \
       "$packages"/pillow.libs/libbrotli*
