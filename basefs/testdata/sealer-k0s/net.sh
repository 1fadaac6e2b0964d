#!/bin/bash
echo "the network of $HostIP"
