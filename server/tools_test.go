package server_test

import (
	"bytes"
	"context"
	"fmt"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
)

// buildTools builds the clients that server/tools/go.mod pins into .bin/, once
// for all tests.
var buildTools = sync.OnceValues(func() (string, error) {
	bin, err := filepath.Abs(filepath.Join("..", ".bin"))
	if err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-C", "tools", "-o", bin+string(filepath.Separator),
		"github.com/fullstorydev/grpcurl/cmd/grpcurl",
		"github.com/grpc-ecosystem/grpc-health-probe")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building grpcurl and grpc-health-probe: %w\n%s", err, out)
	}
	return bin, nil
})

// tool runs one of them and returns what it printed.
func tool(t testing.TB, name string, args ...string) (string, error) {
	t.Helper()
	bin, err := buildTools()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var out bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(bin, name), args...)
	cmd.Stdout, cmd.Stderr = &out, &out
	err = cmd.Run()
	return out.String(), err
}

func grpcurl(t testing.TB, args ...string) (string, error) {
	t.Helper()
	return tool(t, "grpcurl", args...)
}
