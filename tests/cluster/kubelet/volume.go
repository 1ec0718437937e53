package main

import (
	"fmt"
	"os"
	"path/filepath"
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
		found := false
		for _, volume := range c.pod.object.Spec.Volumes {
			if volume.Name != asked.Name {
				continue
			}
			if volume.EmptyDir == nil {
				return nil, fmt.Errorf("volume %s: this double of a kubelet knows only emptyDir", volume.Name)
			}
			found = true
		}
		if !found {
			continue // the API server has seen to it that there is one, so it is the service account's own
		}
		folder := filepath.Join(c.pod.node.logs, "..", "volumes", string(c.pod.object.UID), asked.Name)
		if err := os.MkdirAll(folder, 0o777); err != nil {
			return nil, err
		}
		mounts = append(mounts, mount{folder, asked.MountPath})
	}
	return mounts, nil
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
