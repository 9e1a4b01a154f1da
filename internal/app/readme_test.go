package app_test

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/tidewire/tidewire/config"
	"github.com/tidewire/tidewire/internal/app"
)

// TestReadmeConfig loads the config that the README shows, as "validate" would.
func TestReadmeConfig(t *testing.T) {
	for name, value := range map[string]string{
		"STRIPE_WEBHOOK_SECRET": "whsec_example", "SHOP_SECRET": "shop-secret-example",
		"BACKOFFICE_SIGNING_SECRET": "whsec_cXVpY2tzdGFydC1vbmx5LW5vdC1hLXNlY3JldC0wMDE=",
	} {
		t.Setenv(name, value)
	}
	readme, err := os.ReadFile(filepath.Join("..", "..", "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	_, after, found := strings.Cut(string(readme), "```yaml\n")
	text, _, closed := strings.Cut(after, "```\n")
	if !found || !closed {
		t.Fatal("the README shows no config")
	}
	path := filepath.Join(t.TempDir(), "tidewire.yaml")
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	plan, err := app.Load(path, func(config.Log) *slog.Logger { return slog.New(slog.DiscardHandler) })
	if err != nil {
		t.Fatalf("the README's config is not valid: %v", err)
	}
	t.Cleanup(func() {
		if err := plan.Close(); err != nil {
			t.Error(err)
		}
	})
	if len(plan.Warnings) > 0 {
		t.Errorf("the README's config is warned of: %v", plan.Warnings)
	}
}
