package deploy_test

import (
	"debug/elf"
	"fmt"
	"go/version"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// containerfile reads deploy/Containerfile as BuildKit does.
func containerfile() ([]instructions.Stage, error) {
	f, err := os.Open("../Containerfile")
	if err != nil {
		return nil, err
	}
	defer f.Close()
	parsed, err := parser.Parse(f)
	if err != nil {
		return nil, err
	}
	stages, _, err := instructions.Parse(parsed.AST, nil)
	if err == nil && len(stages) != 2 {
		err = fmt.Errorf("%d stages, want one that builds and one that is the image", len(stages))
	}
	return stages, err
}

// image is what the last stage of the Containerfile says.
type image struct {
	base       string
	user       string
	entrypoint []string
	command    []string
	files      map[string]string // from the build stage: path in the image to path there
}

func readImage(t *testing.T) image {
	t.Helper()
	stages, err := containerfile()
	if err != nil {
		t.Fatal(err)
	}
	build, last := stages[0], stages[1]
	img := image{base: last.BaseName, files: map[string]string{}}
	for _, c := range last.Commands {
		switch c := c.(type) {
		case *instructions.CopyCommand:
			switch {
			case c.From == "":
				for _, src := range c.SourcePaths {
					if _, err := os.Stat(filepath.Join(checkout, src)); err != nil {
						t.Errorf("COPY from the checkout: %v", err)
					}
				}
			case c.From == build.Name:
				img.files[c.DestPath] = c.SourcePaths[0]
			default:
				t.Errorf("COPY --from=%s: the only stage before is called %q", c.From, build.Name)
			}
		case *instructions.UserCommand:
			img.user = c.User
		case *instructions.EntrypointCommand:
			if c.PrependShell {
				t.Error("ENTRYPOINT needs a shell, and the image has none")
			}
			img.entrypoint = c.CmdLine
		case *instructions.CmdCommand:
			if c.PrependShell {
				t.Error("CMD needs a shell, and the image has none")
			}
			img.command = c.CmdLine
		case *instructions.RunCommand:
			t.Error("RUN in the last stage needs a shell, and the image has none")
		}
	}
	return img
}

func TestContainerfileImages(t *testing.T) {
	stages, err := containerfile()
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range stages {
		if err := pinned(s.BaseName); err != nil {
			t.Errorf("FROM %s: %v", s.BaseName, err)
		}
	}
	if base := stages[1].BaseName; !strings.Contains(base, "/distroless/base-") {
		t.Errorf("FROM %s: not a distroless base image with glibc", base)
	}

	mod, err := os.ReadFile(filepath.Join(checkout, "go.mod"))
	if err != nil {
		t.Fatal(err)
	}
	wanted := regexp.MustCompile(`(?m)^go (\S+)$`).FindSubmatch(mod)
	builder := regexp.MustCompile(`/golang:([0-9.]+)-`).FindStringSubmatch(stages[0].BaseName)
	if wanted == nil || builder == nil {
		t.Fatalf("no Go version in go.mod or in %s", stages[0].BaseName)
	}
	if version.Compare("go"+builder[1], "go"+string(wanted[1])) < 0 {
		t.Errorf("the builder's Go %s is older than go.mod's %s", builder[1], wanted[1])
	}
}

// pinned wants a tag that says a version, and not the newest.
func pinned(ref string) error {
	name, digest, _ := strings.Cut(ref, "@")
	_, tag, ok := strings.Cut(path.Base(name), ":")
	switch {
	case digest != "":
		return nil
	case !ok:
		return fmt.Errorf("no tag: that means latest")
	case tag == "latest" || strings.HasPrefix(tag, "latest-"):
		return fmt.Errorf("the tag %s moves", tag)
	case !strings.ContainsAny(path.Base(name), "0123456789"):
		return fmt.Errorf("neither name nor tag says a version")
	}
	return nil
}

func TestContainerfileImage(t *testing.T) {
	img := readImage(t)
	user, group, ok := strings.Cut(img.user, ":")
	for _, id := range []string{user, group} {
		if n, err := strconv.Atoi(id); !ok || err != nil || n <= 0 {
			t.Errorf("USER %s: want numbers of a user and a group other than root", img.user)
		}
	}
	if len(img.entrypoint) != 1 || img.files[img.entrypoint[0]] == "" {
		t.Fatalf("ENTRYPOINT %q is not the file that was copied from the build stage: %v", img.entrypoint, img.files)
	}
	if !slices.Equal(img.command, []string{"serve"}) {
		t.Errorf("CMD %q, want serve alone: which addresses to listen on is not the image's business", img.command)
	}

	// Its default command is one that the binary knows.
	kigo := build(t)
	if out, err := exec.Command(kigo, append(img.command, "--help")...).CombinedOutput(); err != nil {
		t.Errorf("kigo %s --help: %v\n%s", img.command, err, out)
	}
}

// The build stage works on exactly the files that it copies, and what comes out
// runs on nothing but glibc.
func TestContainerfileBuild(t *testing.T) {
	kigo := build(t)
	out, err := exec.Command(kigo, "version").CombinedOutput()
	if err != nil || !strings.Contains(string(out), buildVersion) {
		t.Errorf("kigo version = %q, %v; want the version given to the build, %s", out, err, buildVersion)
	}

	f, err := elf.Open(kigo)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	libraries, err := f.ImportedLibraries()
	if err != nil {
		t.Fatal(err)
	}
	glibc := regexp.MustCompile(`^(libc|libdl|libpthread|libm|librt|ld-linux-[a-z0-9-]+)\.so\.\d$`)
	for _, l := range libraries {
		if !glibc.MatchString(l) {
			t.Errorf("the binary needs %s, which the base image does not have", l)
		}
	}
}

func TestPinned(t *testing.T) {
	for ref, want := range map[string]bool{
		"golang:1.26.8-trixie":                          true,
		"gcr.io/distroless/base-nossl-debian13:nonroot": true,
		"localhost:5000/kigo:0.1.0":                     true,
		"kigo@sha256:0123456789":                        true,
		"golang":                                        false,
		"localhost:5000/kigo":                           false,
		"golang:latest":                                 false,
		"gcr.io/distroless/base-debian13:latest-amd64":  false,
		"gcr.io/distroless/base:nonroot":                false,
	} {
		if err := pinned(ref); (err == nil) != want {
			t.Errorf("%s: %v, want pinned = %t", ref, err, want)
		}
	}
}
