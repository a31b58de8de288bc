package cli

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/spf13/cobra"
	"go.yaml.in/yaml/v3"
)

// configFlag names the file whose settings hold where neither the command line
// nor the environment says anything.
const configFlag = "config"

// maxConfigBytes is far above any file of settings.
const maxConfigBytes = 1 << 20

// bindConfig lets the flags of cmd be given in a YAML file, too: a mapping of
// flag names to values. bindEnvironment comes after it, so that the environment
// is there first when the command runs. What the file says wrongly is a usage
// error with its line.
func bindConfig(cmd *cobra.Command) {
	path := cmd.Flags().String(configFlag, "", "YAML file of settings, named like the flags; the command line and the environment win")
	cmd.PreRunE = func(cmd *cobra.Command, _ []string) error {
		if *path == "" {
			return nil
		}
		if err := applyConfig(cmd, *path); err != nil {
			return &usageError{err}
		}
		return nil
	}
}

func applyConfig(cmd *cobra.Command, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	raw, err := io.ReadAll(io.LimitReader(f, maxConfigBytes+1))
	if err != nil {
		return err
	}
	if len(raw) > maxConfigBytes {
		return fmt.Errorf("%s: more than %d bytes", path, maxConfigBytes)
	}
	var root yaml.Node
	if err := yaml.Unmarshal(raw, &root); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	if root.Kind == 0 { // nothing but comments
		return nil
	}
	settings := root.Content[0]
	if settings.Kind != yaml.MappingNode {
		return fmt.Errorf("%s:%d: want settings, one to a line, like max-queue: 64", path, settings.Line)
	}
	seen := map[string]bool{}
	for i := 0; i+1 < len(settings.Content); i += 2 {
		key, value := settings.Content[i], settings.Content[i+1]
		if err := applySetting(cmd, seen, key, value); err != nil {
			return fmt.Errorf("%s:%d: %.64q: %w", path, key.Line, key.Value, err)
		}
	}
	return nil
}

func applySetting(cmd *cobra.Command, seen map[string]bool, key, value *yaml.Node) error {
	flag := cmd.Flags().Lookup(key.Value)
	switch {
	case flag == nil || key.Value == configFlag || key.Value == "help":
		return errors.New("there is no such setting")
	case seen[key.Value]:
		return errors.New("said twice")
	case value.Kind != yaml.ScalarNode || value.Tag == "!!null":
		return errors.New("want one value")
	}
	seen[key.Value] = true
	if flag.Changed { // by the command line or the environment
		return nil
	}
	return cmd.Flags().Set(key.Value, value.Value)
}
