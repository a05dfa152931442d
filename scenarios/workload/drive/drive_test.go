package drive

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"
)

// start runs one server that knows the user.
func start(t *testing.T, u User, p *server.Permissions) Target {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: server.RANDOM_PORT, NoLog: true, NoSigs: true,
		Nkeys: []*server.NkeyUser{{Nkey: u.Public, Permissions: p}}})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() { s.Shutdown(); s.WaitForShutdown() })
	if !s.ReadyForConnections(10 * time.Second) {
		t.Fatal("the server does not listen")
	}
	return Target{Servers: []string{s.ClientURL(), s.ClientURL(), s.ClientURL()}}
}

func user(t *testing.T) User {
	t.Helper()
	u, err := NewUser("u")
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// The loads that need no cluster count what went through.
func TestCoreLoads(t *testing.T) {
	u := user(t)
	s, err := Dial(t.Context(), start(t, u, nil), u)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, l := range Loads() {
		if strings.HasPrefix(l.Name, "js-") {
			continue
		}
		r, err := l.Run(t.Context(), s, 50*time.Millisecond)
		if err != nil || r.Ops == 0 || r.Took < 50*time.Millisecond || r.PerSecond() <= 0 {
			t.Errorf("%s: %+v, %v", l.Name, r, err)
		}
	}
}

// What a server refuses it says on the side only: a load must not count it.
func TestRefused(t *testing.T) {
	u := user(t)
	target := start(t, u, &server.Permissions{Publish: &server.SubjectPermission{Deny: []string{Subjects}}})
	for _, l := range Loads()[:1] {
		s, err := Dial(t.Context(), target, u)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if r, err := l.Run(t.Context(), s, 50*time.Millisecond); err == nil {
			t.Errorf("%s counts %d operations that were refused", l.Name, r.Ops)
		}
	}
}

func TestConnects(t *testing.T) {
	u := user(t)
	target := start(t, u, nil)
	r, err := Connects(t.Context(), target, []User{u}, 2, 50*time.Millisecond)
	if err != nil || r.Ops < 2 {
		t.Errorf("%+v, %v", r, err)
	}
	if err := Login(t.Context(), target, u, 1); err != nil {
		t.Error(err)
	}
	stranger := user(t)
	if err := Login(t.Context(), target, stranger, 0); err == nil {
		t.Error("a stranger gets in")
	}
	if _, err := Connects(t.Context(), target, []User{stranger}, 1, time.Second); err == nil {
		t.Error("refused logins are counted")
	}
}

// A load ends with its context, and says so.
func TestInterrupted(t *testing.T) {
	u := user(t)
	s, err := Dial(t.Context(), start(t, u, nil), u)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Millisecond)
	defer cancel()
	if _, err := Loads()[0].Run(ctx, s, time.Minute); err == nil {
		t.Error("it counts what was cut short")
	}
}
