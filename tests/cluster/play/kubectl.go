package main

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// commandTimeout bounds one command; those that wait have a shorter bound of their own.
const commandTimeout = 90 * time.Second

// kubectl runs a command as a user would; it also finds the plugin: kubectl("argo", "rollouts", ...).
func (p *plane) kubectl(arguments ...string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(p.ctx, commandTimeout, fmt.Errorf("not finished within %v", commandTimeout))
	defer cancel()
	command := exec.CommandContext(ctx, filepath.Join(p.binaries, "kubectl"), arguments...)
	var output, errors bytes.Buffer
	// Files are named from tests/cluster on, wherever that is: recordings of two machines are alike.
	command.Dir = p.source
	command.Env, command.Stdout, command.Stderr = p.env, &output, &errors
	if err := command.Run(); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return output.String(), fmt.Errorf("kubectl %s: %w\n%s", strings.Join(arguments, " "), err, bytes.TrimSpace(errors.Bytes()))
	}
	return output.String(), nil
}
