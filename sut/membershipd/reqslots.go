package membershipd

import (
	"sync"

	"github.com/unibus/unibus/sut/membershipd/control"
)

// How many requests a node works on at once; more are refused. Those who may write have slots that nobody else can take: whatever the others send, an
// administrator is served.
const (
	writerSlots = 128
	otherSlots  = 64 // of all others together
	slotsPerKey = 8  // of each of them
)

// requestSlots bounds the requests that a node works on. Who asks is known by then, and who is not known gets none.
type requestSlots struct {
	node            string
	writers, others chan struct{}

	mu   sync.Mutex
	keys map[string]int // requests under way of each caller who may not write; without those who have none
}

func newRequestSlots(node string) *requestSlots {
	return &requestSlots{node: node, writers: make(chan struct{}, writerSlots), others: make(chan struct{}, otherSlots), keys: map[string]int{}}
}

// take never waits. The caller gives the slot back with leave.
func (s *requestSlots) take(who caller) (leave func(), err error) {
	if who.may(needWrite) {
		if !enter(s.writers) {
			return nil, control.Errorf(control.Unavailable, "node %s is busy with %d other requests of administrators", s.node, writerSlots)
		}
		return func() { <-s.writers }, nil
	}
	if !s.enterKey(who.key) {
		return nil, control.Errorf(control.Unavailable, "node %s works on %d requests of this key, and more at once are refused", s.node, slotsPerKey)
	}
	if !enter(s.others) {
		s.leaveKey(who.key)
		return nil, control.Errorf(control.Unavailable, "node %s is busy with %d requests of others, and keeps the rest for administrators", s.node, otherSlots)
	}
	return func() {
		<-s.others
		s.leaveKey(who.key)
	}, nil
}

func enter(pool chan struct{}) bool {
	select {
	case pool <- struct{}{}:
		return true
	default:
		return false
	}
}

func (s *requestSlots) enterKey(key string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[key] >= slotsPerKey {
		return false
	}
	s.keys[key]++
	return true
}

func (s *requestSlots) leaveKey(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.keys[key]--; s.keys[key] == 0 {
		delete(s.keys, key)
	}
}

// fill takes every slot, as they come free, and gives none back. It returns false when done came first.
func (s *requestSlots) fill(done <-chan struct{}) bool {
	for _, pool := range []chan struct{}{s.writers, s.others} {
		for range cap(pool) {
			select {
			case pool <- struct{}{}:
			case <-done:
				return false
			}
		}
	}
	return true
}
