package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// folder writes a folder kernels/ of these files, with a head like kigo.cuh, and
// returns its path.
func folder(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	all := map[string]string{
		"compiler.txt": "# pins\ncompiler==1.0 --hash=sha256:00\n",
		"kigo.cuh":     "#include \"params.h\"\n#include \"params_check.h\"\n",
		"params.h":     "// kernel: * A\nstruct A {\n    float x;\n};\nstruct B {\n    float x;\n};\n",
		"a.cu":         "#include \"kigo.cuh\"\nA\n",
	}
	for name, text := range files {
		all[name] = text
	}
	for name, text := range all {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

func TestReadTreeRefuses(t *testing.T) {
	const head = "#include \"kigo.cuh\"\n"
	for _, test := range []struct{ name, text, want string }{
		{"a.cu", "int x;\n", "does not include"},
		{"a.cu", head + "#include \"b.cuh\"\n", `"b.cuh", which is not in kernels/`},
		{"a.cu", head + "#include \"../b.cuh\"\n", "neither"},
		{"a.cu", head + "#include HEADER\n", "neither"},
		{"a.cu", head + "  #  include \"b.cuh\"\n", "b.cuh"},
		{"a.cu", head + "// targets: sm_75\n", "unknown target"},
		{"a.cu", head + "// targets:\n", "names none"},
		{"A.cu", head, "named in lower case"},
		{"compiler.txt", "# nothing\n", "pins no package"},
		{"params.h", "int x;\n", "neither"},
	} {
		_, err := readTree(folder(t, map[string]string{test.name: test.text}))
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s of %q: got %v, want an error that says %q", test.name, test.text, err, test.want)
		}
	}
}

// The key changes with everything that can change the machine code, and with
// nothing else.
func TestKey(t *testing.T) {
	files := map[string]string{
		"a.cu":  "#include \"kigo.cuh\"\n#include \"b.cuh\"\n#include <mma.h>\nA\n",
		"b.cuh": "#include \"c.cuh\"\n",
		"c.cuh": "#include \"b.cuh\"\n", // a ring is no trouble
		"z.cu":  "#include \"kigo.cuh\"\n",
	}
	key := func(change map[string]string) string {
		t.Helper()
		all := map[string]string{}
		for name, text := range files {
			all[name] = text
		}
		for name, text := range change {
			all[name] = text
		}
		tree, err := readTree(folder(t, all))
		if err != nil {
			t.Fatal(err)
		}
		return tree.key(tree.families[0], targets[0])
	}
	before := key(nil)
	const params = "// kernel: * A\nstruct A {\n    float x;\n};\nstruct B {\n    float x;\n};\n"
	for _, test := range []struct {
		name, text string
		same       bool
	}{
		{"a.cu", files["a.cu"] + " ", false},
		{"b.cuh", files["b.cuh"] + " ", false},
		{"c.cuh", files["c.cuh"] + " ", false},
		{"kigo.cuh", "#include \"params.h\"\n#include \"params_check.h\"\n\n", false},
		{"compiler.txt", "compiler==1.1 --hash=sha256:00\n", false},
		{"params.h", strings.Replace(params, "A {\n    float", "A {\n    int32_t", 1), false},
		{"params.h", strings.Replace(params, "B {\n    float", "B {\n    int32_t", 1), true},
		{"params.h", "// A comment.\n" + params, true},
		{"z.cu", files["z.cu"] + " ", true},
		{"compiler.txt", "# other words\ncompiler==1.0 --hash=sha256:00\n", true},
	} {
		if got := key(map[string]string{test.name: test.text}); (got == before) != test.same {
			t.Errorf("%s as %q: the key is the same: %v, want %v", test.name, test.text, got == before, test.same)
		}
	}
	tree, err := readTree(folder(t, files))
	if err != nil {
		t.Fatal(err)
	}
	seen := map[string]bool{}
	for _, tg := range targets {
		seen[tree.key(tree.families[0], tg)] = true
	}
	if len(seen) != len(targets) {
		t.Error("two targets have one key")
	}
}

func TestTargetsLine(t *testing.T) {
	tree, err := readTree(folder(t, map[string]string{"a.cu": "#include \"kigo.cuh\"\n// targets: sm_90a sm_100\n"}))
	if err != nil {
		t.Fatal(err)
	}
	if got := tree.families[0].targets; len(got) != 2 || got[0].name != "sm_90a" || got[1].name != "sm_100" {
		t.Errorf("targets: %v", got)
	}
}
