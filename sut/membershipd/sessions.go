package membershipd

import (
	"sync"

	"github.com/unibus/unibus/sut/membershipd/access"
)

// session is an open connection of a user, with what it was given when it was opened.
type session struct {
	key, name, role, fingerprint string
}

// sessions are the users' connections to this node. A connection that was closed from the other side stays until the next sweep, which does no harm:
// the embedded server never uses an id twice.
type sessions struct {
	mu     sync.Mutex
	all    map[uint64]session
	byName map[string]map[uint64]struct{}
}

func newSessions() *sessions {
	return &sessions{all: map[uint64]session{}, byName: map[string]map[uint64]struct{}{}}
}

func (s *sessions) add(cid uint64, c session) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all[cid] = c
	if s.byName[c.name] == nil {
		s.byName[c.name] = map[uint64]struct{}{}
	}
	s.byName[c.name][cid] = struct{}{}
}

func (s *sessions) remove(cid uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c, ok := s.all[cid]
	if !ok {
		return
	}
	delete(s.all, cid)
	delete(s.byName[c.name], cid)
	if len(s.byName[c.name]) == 0 {
		delete(s.byName, c.name)
	}
}

// concerned returns the connections that those effects may concern.
func (s *sessions) concerned(effects []access.Effect, isMember func(room, user string) bool) map[uint64]session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := map[uint64]session{}
	for _, e := range effects {
		if e.User != "" {
			for cid := range s.byName[e.User] {
				out[cid] = s.all[cid]
			}
			continue
		}
		for cid, c := range s.all {
			if e.Role != "" && c.role == e.Role || e.Room != "" && isMember(e.Room, c.name) {
				out[cid] = c
			}
		}
	}
	return out
}

// list returns all of them.
func (s *sessions) list() map[uint64]session {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make(map[uint64]session, len(s.all))
	for cid, c := range s.all {
		out[cid] = c
	}
	return out
}

func (s *sessions) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}
