package services_test

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"
	"testing"

	"go.uber.org/goleak"

	"github.com/tidewire/tidewire/internal/services"
)

// orphanage has this binary start servers, say their process ids, and wait to be killed.
const orphanage = "TIDEWIRE_TEST_ORPHANS"

func TestMain(m *testing.M) {
	if dir := os.Getenv(orphanage); dir != "" {
		os.Exit(abandon(dir))
	}
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 1
		}
	}
	os.Exit(code)
}

func abandon(dir string) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	k, err := services.StartKafka(ctx, services.KafkaOptions{Dir: dir + "/kafka"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	p, err := services.StartPostgres(ctx, services.PostgresOptions{Dir: dir + "/postgres"})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	fmt.Println(k.Process(0), p.Process())
	<-ctx.Done()
	return 1
}
