package server_test

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"kigo/engine"
	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// load runs one Load to its end.
func (f *fixture) load(t testing.TB, r *kigov1.LoadRequest) (progress []*kigov1.LoadProgress, model *kigov1.Model, err error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	stream, err := f.models.Load(ctx, r)
	if err != nil {
		return nil, nil, err
	}
	for {
		res, err := stream.Recv()
		if err != nil {
			if model != nil && err.Error() == "EOF" {
				err = nil
			}
			return progress, model, err
		}
		if p := res.GetProgress(); p != nil {
			progress = append(progress, p)
		}
		if m := res.GetModel(); m != nil {
			model = m
		}
	}
}

// Load, List, Get, Unload with a real file, and health at every step of it.
func TestLoadAndUnload(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	real := demoFile(t)
	if err := os.Link(real, filepath.Join(dir, "demo.gguf")); err != nil {
		content, err := os.ReadFile(real) // another file system
		if err != nil {
			t.Fatal(err)
		}
		writeFile(t, dir, "demo.gguf", string(content))
	}
	writeFile(t, dir, "broken.gguf", "GGUF\x03\x00\x00\x00 and nothing after it")
	writeFile(t, dir, "text.gguf", "not a model at all")
	f := start(t, nil, newEngine(t), func(c *server.Config) { c.ModelDir = dir })

	progress, model, err := f.load(t, &kigov1.LoadRequest{Path: "demo.gguf"})
	if err != nil {
		t.Fatal(err)
	}
	if model.GetName() != "demo" || !model.GetVerified() || model.GetTensors() == 0 || model.GetMemory().GetWeights() == 0 ||
		model.GetLoad().GetTotal().AsDuration() <= 0 || model.GetQuantization() == "" || !model.GetChatTemplate() {
		t.Errorf("loaded %v", model)
	}
	for i, p := range progress {
		if p.GetStage() == kigov1.LoadStage_LOAD_STAGE_UNSPECIFIED || p.GetBytesDone() > p.GetBytesTotal() ||
			i > 0 && (p.GetStage() < progress[i-1].GetStage() || p.GetBytesDone() < progress[i-1].GetBytesDone()) {
			t.Errorf("progress goes back, or too far: %v after %v", p, progress[max(i-1, 0)])
		}
	}
	if len(progress) == 0 || progress[len(progress)-1].GetStage() != kigov1.LoadStage_LOAD_STAGE_DONE {
		t.Errorf("progress: %v", progress)
	}
	list, err := f.models.List(t.Context(), &kigov1.ListRequest{})
	if err != nil || len(list.GetModels()) != 1 || list.GetModels()[0].GetName() != "demo" {
		t.Errorf("List: %v, %v", list, err)
	}
	for _, name := range []*string{nil, ptr("demo")} {
		if got, err := f.models.Get(t.Context(), &kigov1.GetRequest{Name: name}); err != nil || got.GetModel().GetName() != "demo" {
			t.Errorf("Get: %v, %v", got, err)
		}
	}
	if _, err := f.models.Get(t.Context(), &kigov1.GetRequest{Name: ptr("other")}); refusalOf(t, err).reason != "MODEL_NOT_FOUND" {
		t.Errorf("Get of another: %v", err)
	}

	// Whatever fails leaves the old model serving.
	for _, c := range []struct {
		r      *kigov1.LoadRequest
		code   codes.Code
		reason string
	}{
		{&kigov1.LoadRequest{Path: "demo.gguf"}, codes.FailedPrecondition, "MODEL_ALREADY_LOADED"},
		{&kigov1.LoadRequest{Path: "text.gguf", Replace: ptr(true)}, codes.InvalidArgument, "INVALID_FILE"},
		{&kigov1.LoadRequest{Path: "broken.gguf", Replace: ptr(true)}, codes.InvalidArgument, "INVALID_FILE"},
		{&kigov1.LoadRequest{Path: "missing.gguf", Replace: ptr(true)}, codes.NotFound, "FILE_NOT_FOUND"},
	} {
		_, _, err := f.load(t, c.r)
		if got := refusalOf(t, err); got.code != c.code || got.reason != c.reason || strings.Contains(got.text, dir) {
			t.Errorf("%v: %+v, want %v %s", c.r, got, c.code, c.reason)
		}
		f.mustExecute(t, textRequest("Hello", 1))
	}

	// Another one in its place, under another name.
	if _, model, err = f.load(t, &kigov1.LoadRequest{Path: "demo.gguf", Name: ptr("second"), Replace: ptr(true)}); err != nil || model.GetName() != "second" {
		t.Errorf("replaced by %v, %v", model, err)
	}
	if a := f.mustExecute(t, textRequest("Hello", 1)); a.started.GetModel() != "second" {
		t.Errorf("answered by %q", a.started.GetModel())
	}

	if _, err := f.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: "demo"}); refusalOf(t, err).code != codes.NotFound {
		t.Errorf("Unload of the replaced model: %v", err)
	}
	if _, err := f.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: "second"}); err != nil {
		t.Fatal(err)
	}
	for service, want := range map[string]healthpb.HealthCheckResponse_ServingStatus{
		"readiness": healthpb.HealthCheckResponse_NOT_SERVING, "": healthpb.HealthCheckResponse_NOT_SERVING,
		"liveness": healthpb.HealthCheckResponse_SERVING,
	} {
		if got := f.check(t, service); got != want {
			t.Errorf("%q after the unload: %v", service, got)
		}
	}
	if _, err := f.execute(t, textRequest("Hello", 1)); refusalOf(t, err).reason != "NO_MODEL_LOADED" {
		t.Errorf("after the unload: %v", err)
	}
}

// Names are the client's to choose and the folder's to resolve.
func TestLoadRefusesPaths(t *testing.T) {
	t.Parallel()
	b := newFake()
	b.load = func(context.Context, engine.LoadRequest, func(engine.LoadProgress)) (*engine.ModelInfo, error) {
		t.Error("the engine was asked to load")
		return nil, engine.ErrNoModel
	}
	dir := t.TempDir()
	if err := os.Mkdir(filepath.Join(dir, "folder"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mkfifo(filepath.Join(dir, "fifo"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/etc/hostname", filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	with := start(t, b, nil, func(c *server.Config) { c.ModelDir = dir })
	without := start(t, b, nil)
	for _, c := range []struct {
		f      *fixture
		path   string
		code   codes.Code
		reason string
	}{
		{without, "a.gguf", codes.FailedPrecondition, "NO_MODEL_DIRECTORY"},
		{with, "missing", codes.NotFound, "FILE_NOT_FOUND"},
		{with, "/etc/hostname", codes.InvalidArgument, "PATH_OUTSIDE_MODEL_DIRECTORY"},
		{with, "../up", codes.InvalidArgument, "PATH_OUTSIDE_MODEL_DIRECTORY"},
		{with, "link", codes.InvalidArgument, "PATH_OUTSIDE_MODEL_DIRECTORY"},
		{with, "fifo", codes.InvalidArgument, "NOT_A_REGULAR_FILE"},
		{with, "folder", codes.InvalidArgument, "NOT_A_REGULAR_FILE"},
	} {
		_, _, err := c.f.load(t, &kigov1.LoadRequest{Path: c.path})
		if got := refusalOf(t, err); got.code != c.code || got.reason != c.reason || strings.Contains(got.text, dir) {
			t.Errorf("%s: %+v, want %v %s", c.path, got, c.code, c.reason)
		}
	}
	_, _, err := with.load(t, &kigov1.LoadRequest{Path: "a", Name: ptr("../../x y")})
	if got := refusalOf(t, err); got.code != codes.InvalidArgument || got.fields["name"] == "" {
		t.Errorf("a name that is none: %+v", got)
	}
}

// A load ends with its caller, and with the server.
func TestLoadIsCancelled(t *testing.T) {
	t.Parallel()
	b := newFake()
	loading := make(chan struct{}, 1)
	freed := make(chan error, 1)
	b.load = func(ctx context.Context, _ engine.LoadRequest, progress func(engine.LoadProgress)) (*engine.ModelInfo, error) {
		for i := range uint64(1000) { // nobody reads so fast: the load goes on
			progress(engine.LoadProgress{Stage: engine.StageRead, BytesDone: i, BytesTotal: 1000})
		}
		loading <- struct{}{}
		<-ctx.Done()
		freed <- ctx.Err()
		return nil, ctx.Err()
	}
	dir := t.TempDir()
	writeFile(t, dir, "a.gguf", "x")
	f := start(t, b, nil, func(c *server.Config) { c.ModelDir = dir })

	ctx, cancel := context.WithCancel(t.Context())
	if _, err := f.models.Load(ctx, &kigov1.LoadRequest{Path: "a.gguf"}); err != nil {
		t.Fatal(err)
	}
	<-loading
	cancel()
	<-freed

	stream, err := f.models.Load(t.Context(), &kigov1.LoadRequest{Path: "a.gguf"})
	if err != nil {
		t.Fatal(err)
	}
	<-loading
	if err := f.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	<-freed
	for err == nil {
		_, err = stream.Recv()
	}
	if r := refusalOf(t, err); r.code != codes.Unavailable || r.reason != "SHUTTING_DOWN" {
		t.Errorf("the load ended with %v %s", r.code, r.reason)
	}
}
