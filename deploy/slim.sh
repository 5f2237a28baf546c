#!/bin/sh
# Takes out of an environment what a server never loads: `deploy/slim.sh /opt/sluice`. About 45 MB of 190.
set -eu
packages=$(echo "$1"/lib/python3.*/site-packages)
find "$packages" -type d -name tests -prune -exec rm -rf {} +
# developers' tools of ONNX Runtime, and its C library: the Python binding has its own copy inside
rm -rf "$packages"/onnxruntime/transformers "$packages"/onnxruntime/quantization "$packages"/onnxruntime/tools \
       "$packages"/onnxruntime/datasets "$packages"/onnxruntime/backend "$packages"/onnxruntime/capi/libonnxruntime.so*
rm -rf "$packages"/numpy/f2py "$packages"/numpy/distutils
