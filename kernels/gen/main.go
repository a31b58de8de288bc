// Command gen compiles the kernels and writes all that is made from them.
//
//	go run ./kernels/gen build     compile what changed, write bin/, SUMS and the generated files
//	go run ./kernels/gen generate  write the generated files alone, from params.h and SUMS
//	go run ./kernels/gen check     compile again what changed since another SUMS, and compare
//	go run ./kernels/gen info      print registers, spills and memory of each kernel
//
// It runs at the root of the repository, or is told where kernels/ is. The
// compiler is needed by build and check; .make/cuda.py installs it.
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"text/tabwriter"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "kernels: "+err.Error())
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, out io.Writer) error {
	if len(args) == 0 {
		return fmt.Errorf("say build, generate, check or info")
	}
	flags := flag.NewFlagSet("gen "+args[0], flag.ExitOnError)
	dir := flags.String("kernels", "kernels", "the folder of the sources")
	cuda := flags.String("cuda", ".build/cuda", "the folder of the compiler")
	base := flags.String("base", "", "check: the SUMS to compare with; none compiles everything again")
	var sel selection
	list := func(to *[]string) func(string) error {
		return func(names string) error {
			*to = append(*to, strings.Fields(strings.ReplaceAll(names, ",", " "))...)
			return nil
		}
	}
	flags.Func("family", "these families only", list(&sel.families))
	flags.Func("target", "these targets only", list(&sel.targets))
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	if flags.NArg() > 0 {
		return fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	t, err := readTree(*dir)
	if err != nil {
		return err
	}
	if err := sel.checkNames(t); err != nil {
		return err
	}
	switch args[0] {
	case "build":
		return t.build(ctx, *cuda, sel, out)
	case "check":
		before := &manifest{}
		if *base != "" {
			if before, err = readManifest(*base); err != nil {
				return err
			}
		}
		return t.check(ctx, *cuda, before, sel, out)
	}
	m, err := readManifest(filepath.Join(t.dir, "SUMS"))
	if err != nil {
		return err
	}
	switch args[0] {
	case "generate":
		return t.generate(m, false)
	case "info":
		return t.info(m, sel, out)
	}
	return fmt.Errorf("unknown command %q: say build, generate, check or info", args[0])
}

// info prints the manifest's kernels, one a line.
func (t *tree) info(m *manifest, sel selection, out io.Writer) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "kernel\ttarget\tregisters\tspills\tstack\tshared\tcode\tparams\t")
	for _, f := range t.families {
		for _, tg := range f.targets {
			e := m.find(f.file(tg))
			if e == nil || tg.ptx || !sel.has(f.name, tg.name) {
				continue
			}
			for _, k := range e.kernels {
				fmt.Fprintf(w, "%s\t%s\t%d\t%d\t%d\t%d\t%d\t%d\t\n", k.name, tg.name, k.registers, k.spills, k.stack, k.shared, k.code, k.params)
			}
		}
	}
	return w.Flush()
}
