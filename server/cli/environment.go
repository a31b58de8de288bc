package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// variable is the name of the environment variable of a flag: KIGO_MAX_QUEUE
// for --max-queue.
func variable(flag string) string {
	return "KIGO_" + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// bindEnvironment lets the named flags of cmd (all of them if none is named)
// be given as environment variables, too. The command line wins. An empty
// variable counts as absent.
func (a *app) bindEnvironment(cmd *cobra.Command, names ...string) {
	var flags []*pflag.Flag
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		wanted := len(names) == 0
		for _, name := range names {
			wanted = wanted || name == f.Name
		}
		if wanted {
			f.Usage += " [" + variable(f.Name) + "]"
			flags = append(flags, f)
		}
	})
	after := cmd.PreRunE
	cmd.PreRunE = func(cmd *cobra.Command, args []string) error {
		for _, f := range flags {
			value, ok := a.lookupEnv(variable(f.Name))
			if !ok || value == "" || f.Changed {
				continue
			}
			if err := cmd.Flags().Set(f.Name, value); err != nil {
				return &usageError{fmt.Errorf("%s: %w", variable(f.Name), err)}
			}
		}
		if after != nil {
			return after(cmd, args)
		}
		return nil
	}
}
