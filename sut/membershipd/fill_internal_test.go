package membershipd

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/unibus/unibus/sut/membershipd/access"
	"github.com/unibus/unibus/sut/membershipd/control"
	"github.com/unibus/unibus/sut/membershipd/health"
)

// smallBuckets gives every bucket the same size, for the length of the test.
func smallBuckets(t *testing.T, size int64) {
	t.Helper()
	old := bucketSpecs
	t.Cleanup(func() { bucketSpecs = old }) // after the nodes have ended
	bucketSpecs = slices.Clone(old)
	for i := range bucketSpecs {
		bucketSpecs[i].maxBytes = size
	}
}

func TestFills(t *testing.T) {
	var f fills
	first := time.Unix(1, 0)
	second, third, later := first.Add(fillMemory/2), first.Add(fillMemory), first.Add(3*fillMemory)
	for i, step := range []struct {
		look  time.Time
		bytes uint64
		size  int
		want  bool
	}{
		{first, 50, 30, true},
		{first, 50, 30, false}, // what was let in before counts
		{first, 50, 20, true},
		{second, 50, 1, false}, // and still counts, for it may have been on its way when the bucket was looked at
		{third, 95, 6, false},
		{third, 95, 5, true},
		{later, 95, 5, true}, // it has been in the bucket's figure for long
	} {
		if got := f.let("b", step.look, step.bytes, 100, step.size); got != step.want {
			t.Errorf("step %d: %t", i, got)
		}
	}
	if !f.let("other", third, 0, 100, 100) {
		t.Error("buckets are not counted each by itself")
	}
}

func TestIsFull(t *testing.T) {
	full := &apiError{Code: 503, ErrCode: codeStoreFailed, Description: "maximum bytes exceeded"}
	for _, err := range []error{nil, errors.New("maximum bytes exceeded"), &apiError{ErrCode: codeStoreFailed, Description: "input/output error"},
		&apiError{ErrCode: codeWrongSequence, Description: full.Description}} {
		if isFull(err) {
			t.Errorf("%v", err)
		}
	}
	if !isFull(fmt.Errorf("publish: %w", full)) {
		t.Error("the refusal of a full bucket is not known")
	}
}

// TestAlmostFull: nothing is added to a bucket that is almost full, so that a user can be disabled, a key be replaced and a setting be read for as long as ever.
func TestAlmostFull(t *testing.T) {
	smallBuckets(t, 64<<10)
	c := newInProcess(t, nil)
	c.startAll()
	admin, ctx := c.api(c.admin, 0), t.Context()
	c.add(t, admin, "eve", access.RoleMember)
	c.add(t, admin, "olga", access.RoleMember)
	if _, err := admin.CreateRoom(ctx, control.RoomCreateRequest{Name: "desk", Owner: "olga", Subjects: []string{"desk.>"}}); err != nil {
		t.Fatal(err)
	}
	role := access.Role{Name: "reader", Description: strings.Repeat("x", 200), Subscribe: []string{"a.>"}}
	if _, err := admin.PutRole(ctx, control.RolePutRequest{Role: role}); err != nil {
		t.Fatal(err)
	}
	if _, err := admin.Grant(ctx, "desk", "eve", access.LevelMember); err != nil {
		t.Fatal(err)
	}
	large := strings.Repeat("x", 4<<10)
	for bucket, add := range map[string]func(i int) error{
		BucketUsers: func(i int) error {
			_, pub := userKey(t)
			_, err := admin.AddUser(ctx, control.UserAddRequest{Name: fmt.Sprintf("user-%d", i), Key: pub, Role: access.RoleMember})
			return err
		},
		BucketRoles: func(i int) error {
			role := role
			role.Name = fmt.Sprintf("role-%d", i)
			for j := range 20 {
				role.Deny = append(role.Deny, fmt.Sprintf("a.%d.%s", j, strings.Repeat("x", 40)))
			}
			_, err := admin.PutRole(ctx, control.RolePutRequest{Role: role})
			return err
		},
		BucketSettings: func(i int) error {
			_, err := admin.Put(ctx, fmt.Sprintf("setting-%d", i), large, nil)
			return err
		},
	} {
		n := 0
		for ; n < 1000; n++ {
			err := add(n)
			if err != nil { // what was let in between two looks at the bucket counts twice: it may have room still
				c.lookAgain(t, 0)
				err = add(n)
			}
			if err == nil {
				continue
			}
			wantControl(t, err, control.Unavailable)
			if !strings.Contains(err.Error(), bucket) || !strings.Contains(err.Error(), "%") {
				t.Errorf("it does not say which bucket is how full: %v", err)
			}
			break
		}
		if n < 5 || n == 1000 {
			t.Fatalf("%s took %d", bucket, n)
		}
		c.wantFill(t, bucket, 80, fillLimit)
	}
	var users []control.UserAddRequest
	for i := range 100 {
		_, pub := userKey(t)
		users = append(users, control.UserAddRequest{Name: fmt.Sprintf("imported-%d", i), Key: pub, Role: access.RoleMember})
	}
	resp, err := admin.ImportUsers(ctx, users)
	if err == nil && resp.Error != nil {
		err = resp.Error // some of them had room
	}
	wantControl(t, err, control.Unavailable)
	c.wantFill(t, BucketUsers, 80, fillLimit)
	_, pub := userKey(t)
	for i := range 3 {
		c.wantEverywhere(t, access.Users, mustChange(t)(admin.DisableUser(ctx, "eve")))
		mustChange(t)(admin.EnableUser(ctx, "eve"))
		mustChange(t)(admin.Revoke(ctx, "desk", "eve"))
		mustChange(t)(admin.Grant(ctx, "desk", "eve", access.LevelMember)) // the members have room
		if _, err := admin.Get(ctx, "setting-0"); err != nil {
			t.Errorf("read a setting: %v", err)
		}
		if _, err := admin.List(ctx); err != nil {
			t.Errorf("list the settings: %v", err)
		}
		role.Description = fmt.Sprint(i)
		mustChange(t)(admin.PutRole(ctx, control.RolePutRequest{Role: role}))
	}
	mustChange(t)(admin.RotateUser(ctx, "eve", pub))
	if _, err := admin.Scale(ctx, 3); err != nil {
		t.Errorf("the daemon's own setting: %v", err)
	}

	// Beyond that only somebody who writes past the API gets. It is a refusal, and no doubt.
	js := jsAPI{nc: c.nodes[0].running.Load().nc}
	for bucket, change := range map[string]func() error{
		BucketUsers:    func() error { _, err := admin.DisableUser(ctx, "eve"); return err },
		BucketSettings: func() error { _, err := admin.Scale(ctx, 3); return err },
	} {
		for _, size := range []int{4 << 10, 64, 0} { // to the last byte
			var err error
			for i := 0; err == nil; i++ {
				_, err = js.publish(ctx, keySubject(bucket, fmt.Sprintf("junk-%d-%d", size, i)), nil, make([]byte, size), nil)
			}
			if !isFull(err) {
				t.Fatalf("fill %s: %v", bucket, err)
			}
		}
		wantControl(t, change(), control.Unavailable)
	}
	a := c.apiOf(0)
	who := identified(t, a, public(t, c.admin), needWrite)
	_, err = a.write(ctx, who, "settings.put", "motd", "x", nil)
	wantControl(t, err, control.Unavailable)
}

// lookAgain waits until a node looks at its buckets so much later that nothing else counts.
func (c *inProcess) lookAgain(t *testing.T, i int) {
	t.Helper()
	since := time.Now()
	untilTrue(t, "the node looks at its buckets", func() bool { return c.nodes[i].eval.view().at.Sub(since) > fillMemory })
}

// wantFill holds that each node shows that a bucket is as full as that, in percent.
func (c *inProcess) wantFill(t *testing.T, bucket string, least, most uint64) {
	t.Helper()
	for i := range c.nodes {
		untilTrue(t, fmt.Sprintf("%s shows how full %s is", c.confs[i].Name, bucket), func() bool {
			buckets := c.nodes[i].status().Buckets
			b := buckets[slices.IndexFunc(buckets, func(b health.Bucket) bool { return b.Name == bucket })]
			return b.MaxBytes == 64<<10 && b.Bytes*100 >= least*b.MaxBytes && b.Bytes*100 <= (most+1)*b.MaxBytes
		})
	}
}
