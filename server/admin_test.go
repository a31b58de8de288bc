package server_test

import (
	"context"
	"path/filepath"
	"strings"
	"testing"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	kigov1 "kigo/proto/kigo/v1"
	"kigo/server"
)

// With a listener of its own, all of ModelService is there and nowhere else,
// what it loads is served on the public listener, and what is for callers is
// not on the admin's.
func TestAdminListener(t *testing.T) {
	t.Parallel()
	model := smallModel(t)
	f := start(t, nil, newEngine(t), func(c *server.Config) {
		c.AdminAddress, c.ModelDir = "127.0.0.1:0", filepath.Dir(model)
	})
	conn, err := grpc.NewClient(f.AdminAddr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	public := f.models
	admin := *f
	admin.models = kigov1.NewModelServiceClient(conn)

	for name, call := range map[string]func(kigov1.ModelServiceClient) error{
		"Load": func(c kigov1.ModelServiceClient) error {
			stream, err := c.Load(t.Context(), &kigov1.LoadRequest{Path: filepath.Base(model), Name: ptr("demo")})
			for err == nil {
				_, err = stream.Recv()
			}
			return err
		},
		"Unload": func(c kigov1.ModelServiceClient) error {
			_, err := c.Unload(t.Context(), &kigov1.UnloadRequest{Name: "demo"})
			return err
		},
		"List": func(c kigov1.ModelServiceClient) error {
			_, err := c.List(t.Context(), &kigov1.ListRequest{})
			return err
		},
		"Get": func(c kigov1.ModelServiceClient) error {
			_, err := c.Get(t.Context(), &kigov1.GetRequest{})
			return err
		},
	} {
		if got := outcome(call(public)); got != "Unimplemented UNKNOWN_METHOD" {
			t.Errorf("%s on the public listener: %s", name, got)
		}
	}

	if _, model, err := admin.load(t, &kigov1.LoadRequest{Path: filepath.Base(model), Name: ptr("demo")}); err != nil || model.GetName() != "demo" {
		t.Fatalf("Load: %v, %v", model, err)
	}
	f.mustExecute(t, textRequest("Hello", 1))
	if list, err := admin.models.List(t.Context(), &kigov1.ListRequest{}); err != nil || len(list.GetModels()) != 1 {
		t.Errorf("List: %v, %v", list, err)
	}
	if got, err := admin.models.Get(t.Context(), &kigov1.GetRequest{}); err != nil || got.GetModel().GetName() != "demo" {
		t.Errorf("Get: %v, %v", got, err)
	}
	if res, err := healthpb.NewHealthClient(conn).Check(t.Context(), &healthpb.HealthCheckRequest{}); err != nil ||
		res.GetStatus() != healthpb.HealthCheckResponse_SERVING {
		t.Errorf("health on the admin's listener: %v, %v", res, err)
	}
	if _, err := kigov1.NewInferenceServiceClient(conn).Tokenize(t.Context(), &kigov1.TokenizeRequest{
		Input: &kigov1.TokenizeRequest_Text{Text: "a"},
	}); refusalOf(t, err).code != codes.Unimplemented {
		t.Errorf("Tokenize on the admin's listener: %v", err)
	}
	if out, err := grpcurl(t, "-plaintext", f.GRPCAddr().String(), "list"); err != nil || strings.Contains(out, "ModelService") {
		t.Errorf("on the public listener there is, %v: %s", err, out)
	}
	if out, err := grpcurl(t, "-plaintext", f.AdminAddr().String(), "list"); err != nil || !strings.Contains(out, "kigo.v1.ModelService") {
		t.Errorf("on the admin's listener there is, %v: %s", err, out)
	}
	if _, err := admin.models.Unload(t.Context(), &kigov1.UnloadRequest{Name: "demo"}); err != nil {
		t.Errorf("Unload: %v", err)
	}

	// It ends with the server.
	if err := f.Shutdown(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.models.List(t.Context(), &kigov1.ListRequest{}); refusalOf(t, err).code != codes.Unavailable {
		t.Errorf("after the end: %v", err)
	}
}
