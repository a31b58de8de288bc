package deploy_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

const (
	checkout     = "../.." // the build context
	buildVersion = "v0.0.0-deploy-test"
)

// scratch holds what the tests build. Any user may read it: the server runs as
// another one.
var scratch string

func TestMain(m *testing.M) {
	os.Exit(func() int {
		var err error
		if scratch, err = os.MkdirTemp("", "kigo-deploy-"); err == nil {
			err = os.Chmod(scratch, 0o755)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer os.RemoveAll(scratch)
		return m.Run()
	}())
}

// build is the path of the binary that the Containerfile's build stage makes.
func build(t *testing.T) string {
	t.Helper()
	kigo, err := buildOnce()
	if err != nil {
		t.Fatal(err)
	}
	return kigo
}

var buildOnce = sync.OnceValues(func() (string, error) {
	stages, err := containerfile()
	if err != nil {
		return "", err
	}
	root := filepath.Join(scratch, "build")
	if err := runStage(stages[0], root, map[string]string{"VERSION": buildVersion}); err != nil {
		return "", err
	}
	for _, c := range stages[1].Commands {
		if c, ok := c.(*instructions.CopyCommand); ok && c.From == stages[0].Name {
			return filepath.Join(root, c.SourcePaths[0]), nil
		}
	}
	return "", errors.New("the last stage copies nothing from the build stage")
})

// runStage does what a builder does in a stage: the same files, the same
// commands, below the folder root. What a base image would bring (Go, make) is
// this machine's own, and so are the caches that are mounted there.
func runStage(s instructions.Stage, root string, args map[string]string) error {
	var env []string
	for _, v := range os.Environ() {
		// A make around this test is none of the stage's business.
		if name, _, _ := strings.Cut(v, "="); name != "MAKEFLAGS" && name != "MFLAGS" && name != "MAKELEVEL" {
			env = append(env, v)
		}
	}
	dir := "/"
	within := func(p string) string {
		if !path.IsAbs(p) {
			p = path.Join(dir, p)
		}
		return filepath.Join(root, filepath.FromSlash(p))
	}
	for _, c := range s.Commands {
		switch c := c.(type) {
		case *instructions.WorkdirCommand:
			dir = c.Path
			if err := os.MkdirAll(within("."), 0o755); err != nil {
				return err
			}
		case *instructions.ArgCommand:
			for _, a := range c.Args {
				value, ok := args[a.Key]
				if !ok {
					value = a.ValueString()
				}
				env = append(env, a.Key+"="+value)
			}
		case *instructions.CopyCommand:
			for _, src := range c.SourcePaths {
				if err := copyInto(within(c.DestPath), filepath.Join(checkout, src), strings.HasSuffix(c.DestPath, "/")); err != nil {
					return fmt.Errorf("COPY %s: %w", src, err)
				}
			}
		case *instructions.RunCommand:
			if !c.PrependShell {
				return fmt.Errorf("%s: this test runs shell commands only", c)
			}
			cmd := exec.Command("sh", "-c", strings.Join(c.CmdLine, " "))
			cmd.Dir, cmd.Env = within("."), env
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("%s: %w\n%s", c, err, out)
			}
		default:
			return fmt.Errorf("%s: this test does not know how to do that", c.Name())
		}
	}
	return nil
}

// copyInto is COPY of one source: a folder's content goes to dst, a file to dst
// or, if dst is a folder, into it.
func copyInto(dst, src string, folder bool) error {
	info, err := os.Stat(src)
	if err != nil {
		return err
	}
	if info.IsDir() {
		return os.CopyFS(dst, os.DirFS(src))
	}
	content, err := os.ReadFile(src)
	if err != nil {
		return err
	}
	if folder {
		dst = filepath.Join(dst, filepath.Base(src))
	}
	if err := os.MkdirAll(filepath.Dir(dst), 0o755); err != nil {
		return err
	}
	return os.WriteFile(dst, content, info.Mode().Perm())
}
