package docker

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	_ "embed"
	"encoding/hex"
	"fmt"
	"io"
	"maps"
	"os"
	"path"
	"path/filepath"

	"github.com/containerd/errdefs"
	"github.com/moby/moby/client"
	"github.com/testcontainers/testcontainers-go"
)

// Dockerfile is the recipe of every image here: nothing but one static binary and two empty folders, FROM scratch.
//
//go:embed Dockerfile
var dockerfile []byte

// The layout that all images share. The volume is mounted at home.
const (
	home    = "/unibus"
	dataDir = home + "/data" // the daemon's: a lost volume loses all of it
	confDir = home + "/conf" // what the harness puts there: survives a wipe
	userID  = 10001          // the daemon's; the agent is root with few capabilities
)

// image is one that exists on the engine.
type image struct{ tag, id string }

// image makes, or finds, the image of a binary. The tag is the content's digest: an image that is there already is the right one.
func (b *Backend) image(ctx context.Context, binary string) (image, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if i, ok := b.images[binary]; ok {
		return i, nil
	}
	name := filepath.Base(binary)
	rootfs, err := rootfs(binary)
	if err != nil {
		return image{}, fmt.Errorf("build image of %s: %w", name, err)
	}
	h := sha256.New()
	h.Write(dockerfile)
	h.Write(rootfs)
	repo, tag := "unibus-chaos/"+name, hex.EncodeToString(h.Sum(nil))[:16]
	i := image{tag: repo + ":" + tag}
	if i.id, err = b.imageID(ctx, i.tag); err != nil {
		return image{}, fmt.Errorf("build image of %s: %w", name, err)
	}
	if i.id == "" {
		if err := b.buildImage(ctx, repo, tag, name, rootfs); err != nil {
			return image{}, fmt.Errorf("build image of %s: %w", name, explain(err))
		}
		if i.id, err = b.imageID(ctx, i.tag); err != nil || i.id == "" {
			return image{}, fmt.Errorf("build image of %s: it is not there after the build: %w", name, err)
		}
	}
	b.images[binary] = i
	return i, nil
}

func (b *Backend) imageID(ctx context.Context, tag string) (string, error) {
	r, err := b.cli.ImageInspect(ctx, tag)
	if errdefs.IsNotFound(err) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return r.ID, nil
}

func (b *Backend) buildImage(ctx context.Context, repo, tag, name string, rootfs []byte) error {
	archive, err := tarOf(
		file{"Dockerfile", dockerfile, 0o644, 0},
		file{"rootfs.tar", rootfs, 0o644, 0},
	)
	if err != nil {
		return err
	}
	program := "/" + name
	_, err = b.provider.BuildImage(ctx, &testcontainers.ContainerRequest{FromDockerfile: testcontainers.FromDockerfile{
		ContextArchive: bytes.NewReader(archive), Repo: repo, Tag: tag, KeepImage: true, BuildLogWriter: io.Discard,
		BuildOptionsModifier: func(o *client.ImageBuildOptions) {
			if o.Labels == nil {
				o.Labels = map[string]string{}
			}
			maps.Copy(o.Labels, map[string]string{labelProject: "1", labelRole: program})
		},
	}})
	return err
}

// file is an entry of an archive; a nil content makes a folder.
type file struct {
	name    string
	content []byte
	mode    int64
	uid     int
}

func tarOf(files ...file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: f.name, Mode: f.mode, Size: int64(len(f.content)), Uid: f.uid, Gid: f.uid, Typeflag: tar.TypeReg, Format: tar.FormatPAX}
		if f.content == nil {
			h.Typeflag, h.Name = tar.TypeDir, f.name+"/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
		if _, err := w.Write(f.content); err != nil {
			return nil, fmt.Errorf("write archive: %w", err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("write archive: %w", err)
	}
	return buf.Bytes(), nil
}

// rootfs is everything in an image: the binary and the folders that become the volume, with the daemon as their owner.
func rootfs(binary string) ([]byte, error) {
	b, err := os.ReadFile(binary)
	if err != nil {
		return nil, err
	}
	rel := func(p string) string { return path.Clean(p)[1:] }
	return tarOf(
		file{rel(home), nil, 0o755, userID}, file{rel(dataDir), nil, 0o700, userID}, file{rel(confDir), nil, 0o700, userID},
		file{"tmp", nil, 0o1777, 0},
		file{filepath.Base(binary), b, 0o755, 0},
	)
}

// Prepare makes the images that clusters of this daemon need, so that a later NewCluster finds them.
func (b *Backend) Prepare(ctx context.Context, daemon string) error {
	_, err := b.podImages(ctx, daemon)
	return err
}
