#!/bin/bash
echo "init-registry.sh must not run"
exit 1
