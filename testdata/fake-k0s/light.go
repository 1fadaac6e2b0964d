package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/clusterimage/keg/internal/standin"
)

var errLight = errors.New("fake-k0s: no payload")

func (d *daemon) startLight(context.Context, string, []standin.Member) error      { return errLight }
func (d *daemon) lightWorker(context.Context, func() (string, error), bool) error { return errLight }
func (v *vars) lightKubectl(*cobra.Command, []string) error                       { return errLight }
func (v *vars) lightCtr(*cobra.Command, []string) error                           { return errLight }
func (v *vars) lightMembers() (memberStore, error)                                { return nil, errLight }
func (v *vars) lightSnapshot(string) error                                        { return errLight }
func (v *vars) lightRestore(string) error                                         { return errLight }
