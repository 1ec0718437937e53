package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// mount is a folder of ours and the place at which a container sees it.
type mount struct{ folder, place string }

// mounts makes what the container has mounted: the identity of its Pod, and emptyDirs, which outlive a restart of the
// container and end with the Pod's folder.
func (c *container) mounts() ([]mount, error) {
	var mounts []mount
	identity, err := c.pod.identity()
	if err != nil {
		return nil, err
	}
	if identity != "" {
		mounts = append(mounts, mount{identity, identityFolder})
	}
	for _, asked := range c.spec.VolumeMounts {
		i := slices.IndexFunc(c.pod.object.Spec.Volumes, func(volume corev1.Volume) bool { return volume.Name == asked.Name })
		if i < 0 {
			continue // the API server has seen to it that there is one, so it is the service account's own
		}
		volume := c.pod.object.Spec.Volumes[i]
		folder := filepath.Join(c.pod.node.logs, "..", "volumes", string(c.pod.object.UID), asked.Name)
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return nil, err
		}
		switch {
		case volume.EmptyDir != nil:
		case volume.ConfigMap != nil:
			if err := c.pod.write(volume.ConfigMap.Name, folder); err != nil {
				return nil, err
			}
		default:
			return nil, fmt.Errorf("volume %s: this double of a kubelet knows only emptyDir and configMap", volume.Name)
		}
		mounts = append(mounts, mount{folder, asked.MountPath})
	}
	return mounts, nil
}

// write makes a ConfigMap's files, as they are when the container begins; the real kubelet also swaps them later.
func (p *pod) write(name, folder string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	read, err := p.node.client.CoreV1().ConfigMaps(p.object.Namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return err
	}
	for file, text := range read.Data {
		if err := os.WriteFile(filepath.Join(folder, file), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// What does not exist is made on a file system of its own over the nearest folder that does, so that nothing outside of
// the mount namespace changes.
const mountAll = `set -e
made=
while [ "$1" != -- ]; do
  over=$2
  while [ ! -d "$over" ]; do over=$(dirname "$over"); done
  if [ "$over" != "$2" ]; then
    [ "$over" != / ] || { echo "cannot mount at $2: no folder on the way to it exists" >&2; exit 1; }
    case "$made" in *":$over:"*) ;; *) mount -t tmpfs tmpfs "$over"; made="$made:$over:" ;; esac
    mkdir -p "$2"
  fi
  mount --bind "$1" "$2"
  shift 2
done
shift
exec "$@"`

// mounted runs a command in a mount namespace of its own. The shell becomes the program.
func mounted(mounts []mount, argv []string) []string {
	if len(mounts) == 0 {
		return argv
	}
	all := []string{"unshare", "--mount", "--", "sh", "-c", mountAll, "sh"}
	for _, m := range mounts {
		all = append(all, m.folder, m.place)
	}
	return append(append(all, "--"), argv...)
}
