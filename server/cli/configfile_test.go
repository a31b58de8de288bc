package cli

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// settings runs a command with two flags, a config file, an environment and
// arguments, and gives the flags' values.
func settings(t *testing.T, file string, env map[string]string, args ...string) (queue int, name string, err error) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kigo.yaml")
	if err := os.WriteFile(path, []byte(file), 0o600); err != nil {
		t.Fatal(err)
	}
	a := &app{lookupEnv: func(name string) (string, bool) { v, ok := env[name]; return v, ok }}
	cmd := &cobra.Command{Use: "x", SilenceErrors: true, SilenceUsage: true, RunE: func(*cobra.Command, []string) error { return nil }}
	cmd.Flags().IntVar(&queue, "max-queue", 64, "")
	cmd.Flags().StringVar(&name, "name", "none", "")
	bindConfig(cmd)
	a.bindEnvironment(cmd)
	cmd.SetArgs(append([]string{"--config", path}, args...))
	err = cmd.ExecuteContext(t.Context())
	return queue, name, err
}

func TestConfigFile(t *testing.T) {
	const file = "# settings\nmax-queue: 5\nname: from file\n"
	env := map[string]string{"KIGO_NAME": "from environment"}
	for _, c := range []struct {
		what  string
		file  string
		env   map[string]string
		args  []string
		queue int
		name  string
	}{
		{"default", "", nil, nil, 64, "none"},
		{"comments", "# nothing\n", nil, nil, 64, "none"},
		{"file", file, nil, nil, 5, "from file"},
		{"environment wins", file, env, nil, 5, "from environment"},
		{"command line wins", file, env, []string{"--name", "from arguments", "--max-queue=7"}, 7, "from arguments"},
	} {
		queue, name, err := settings(t, c.file, c.env, c.args...)
		if err != nil || queue != c.queue || name != c.name {
			t.Errorf("%s: %d, %q, %v; want %d, %q", c.what, queue, name, err, c.queue, c.name)
		}
	}
}

func TestConfigFileRefusals(t *testing.T) {
	for file, want := range map[string]string{
		"max-queue: 5\nmax-kew: 6\n":   ":2: \"max-kew\": there is no such setting",
		"max-queue: many\n":            ":1: \"max-queue\": invalid argument",
		"max-queue: [1, 2]\n":          "want one value",
		"name:\n":                      "want one value",
		"max-queue: 1\nmax-queue: 2\n": "said twice",
		"config: other.yaml\n":         "there is no such setting",
		"- max-queue\n":                "want settings",
		"max-queue: 5: 6\n":            "yaml",
		strings.Repeat("#", 1<<20+1):   "more than",
	} {
		if _, _, err := settings(t, file, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%.40q: %v, want %q", file, err, want)
		}
	}
	kigo(t, "", nil, "serve", "--config", "/no/such/file").mustFail(t, exitUsage, "/no/such/file")
}
