package docker

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func TestExplain(t *testing.T) {
	for text, want := range map[string]error{
		"Error response from daemon: write /var/lib/x: no space left on device":                             ErrDiskFull,
		"driver failed: Bind for 127.0.0.1:4222 failed: port is already allocated":                          ErrPortTaken,
		"could not find an available, non-overlapping IPv4 address pool among the defaults":                 ErrNoNetwork,
		`Conflict. The container name "/unibus-a" is already in use by container "01"`:                      ErrNameTaken,
		"Cannot connect to the Docker daemon at unix:///var/run/docker.sock. Is the docker daemon running?": ErrNoEngine,
	} {
		engine := errors.New(text)
		if err := explain(engine); !errors.Is(err, want) || !errors.Is(err, engine) {
			t.Errorf("%q: %v, want %v before it", text, err, want)
		}
	}
	other := errors.New("something else")
	if err := explain(other); !errors.Is(err, other) || err.Error() != other.Error() || explain(nil) != nil {
		t.Errorf("an error that says it all became %v", err)
	}
}

func TestOneSentenceForSeveralNodes(t *testing.T) {
	joined := errors.Join(fmt.Errorf("n1: %w", ErrDiskFull), fmt.Errorf("n2: %w", ErrDiskFull))
	if err := one(joined); !errors.Is(err, ErrDiskFull) || strings.Contains(err.Error(), "\n") || !strings.Contains(err.Error(), "1 more") {
		t.Errorf("got %v", err)
	}
	if one(nil) != nil {
		t.Error("no error became one")
	}
}
