package membershipd

import (
	"context"
	"sync"
)

// keySlots lets so many writers of one key through at a time, and forgets a key when nobody is there any more.
type keySlots struct {
	mu   sync.Mutex
	keys map[string]*keySlot
}

type keySlot struct {
	users int
	slots chan struct{}
}

// enter waits for a slot. It returns false when the context ended first; else the caller calls leave.
func (k *keySlots) enter(ctx context.Context, key string) (leave func(), ok bool) {
	s := k.hold(key)
	select {
	case s.slots <- struct{}{}:
		return func() {
			<-s.slots
			k.drop(key, s)
		}, true
	case <-ctx.Done():
		k.drop(key, s)
		return nil, false
	}
}

func (k *keySlots) hold(key string) *keySlot {
	k.mu.Lock()
	defer k.mu.Unlock()
	s := k.keys[key]
	if s == nil {
		if k.keys == nil {
			k.keys = map[string]*keySlot{}
		}
		s = &keySlot{slots: make(chan struct{}, writesPerKey)}
		k.keys[key] = s
	}
	s.users++
	return s
}

func (k *keySlots) drop(key string, s *keySlot) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if s.users--; s.users == 0 {
		delete(k.keys, key)
	}
}
