package cli

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Every test that the README names as the proof of a promise is there.
func TestReadmeNamesTests(t *testing.T) {
	_, promises, ok := strings.Cut(readFile(t, "../../README.md"), "## Promises")
	promises, _, _ = strings.Cut(promises, "\n## ")
	names := regexp.MustCompile("`(Test[A-Za-z_]+)`").FindAllStringSubmatch(promises, -1)
	if !ok || len(names) < 10 {
		t.Fatalf("the README promises nothing: %v", names)
	}
	var tests strings.Builder
	err := filepath.WalkDir("../..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || !strings.HasSuffix(path, "_test.go") {
			return err
		}
		content, err := os.ReadFile(path)
		tests.Write(content)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if !strings.Contains(tests.String(), "\nfunc "+name[1]+"(t *testing.T)") {
			t.Errorf("there is no %s", name[1])
		}
	}
}
