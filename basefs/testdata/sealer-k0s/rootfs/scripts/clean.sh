#!/bin/bash
echo "clean.sh in $(basename "$(pwd)")"
