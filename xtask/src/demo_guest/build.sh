#!/bin/bash
# Builds the demo guest: a small Linux that boots by itself, out of Debian packages. Neither root nor mounts are needed.
#   build.sh CACHE SIZE INIT      prints the image's path as its last line
# The image lies in a directory named after all that it is made of, and is made again only when something of that
# changed. `demo-guest.qcow2` in CACHE leads to the newest one.
set -euo pipefail
cache=$1 size=$2 init=$3
mkdir -p "$cache"
cache=$(cd "$cache" && pwd)

made_by() { cat "$0" "$init"; sha256sum "$(command -v busybox)" /usr/lib/syslinux/mbr/mbr.bin; echo "$size"; }
publish() { ln -sfn "$1/demo-guest.qcow2" "$cache/demo-guest.qcow2"; echo "$cache/demo-guest.qcow2"; }
# Asking apt takes seconds: it is asked again only when its lists are others.
asked=$cache/asked-$( { made_by; stat -c '%n %s %Y' /var/lib/apt/lists/*Packages* 2>/dev/null; } | sha256sum | cut -c1-16)
if key=$(cat "$asked" 2>/dev/null) && [ -s "$cache/$key/demo-guest.qcow2" ]; then publish "$key"; exit; fi

kernel=$(apt-cache depends linux-image-cloud-amd64 | awk '/Depends: linux-image/ { print $2; exit }')
[ -n "$kernel" ] || { echo "apt knows no linux-image-cloud-amd64: run 'apt-get update' first" >&2; exit 1; }
# The agent, and the libraries that may be loaded with it.
libraries=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
  --no-enhances qemu-guest-agent | grep -E '^(lib|zlib1g)' | grep -vE 'perl|gdbm|libdb|text-glob|number-compare|file-find' | sort -u)
# shellcheck disable=SC2086  # a list of words
sources=$(apt-get download --print-uris "$kernel" qemu-guest-agent $libraries | awk '{ print $2, $4 }' | sort)
key=$( { echo "$sources"; made_by; } | sha256sum | cut -c1-16)
out=$cache/$key
if [ -s "$out/demo-guest.qcow2" ]; then echo "$key" > "$asked"; publish "$key"; exit; fi

work=$(mktemp -d "$cache/.building-XXXXXX")
trap 'rm -rf "$work"' EXIT
export SOURCE_DATE_EPOCH=1700000000 LC_ALL=C
mkdir "$work/deb" && cd "$work/deb"
# shellcheck disable=SC2086
apt-get download -qq -o APT::Sandbox::User=root "$kernel" qemu-guest-agent $libraries >&2

# The kernel, and the modules that a virtual machine needs.
cd "$work" && mkdir kernel root agent
dpkg-deb --fsys-tarfile deb/linux-image-*.deb | tar -x -C kernel --wildcards './boot/vmlinuz*' \
  './lib/modules/*/kernel/drivers/virtio/*' './lib/modules/*/kernel/drivers/block/virtio_blk.ko' \
  './lib/modules/*/kernel/drivers/net/virtio_net.ko' './lib/modules/*/kernel/drivers/net/net_failover.ko' \
  './lib/modules/*/kernel/net/core/failover.ko' './lib/modules/*/kernel/drivers/char/virtio_console.ko' \
  './lib/modules/*/kernel/drivers/acpi/button.ko' './lib/modules/*/kernel/drivers/input/evdev.ko' \
  './lib/modules/*/kernel/fs/fat/*' './lib/modules/*/kernel/fs/nls/nls_cp437.ko' \
  './lib/modules/*/kernel/fs/nls/nls_ascii.ko' './lib/modules/*/kernel/fs/nls/nls_iso8859-1.ko' 2> tar.log || \
  grep -v 'Not found in archive\|Exiting with failure' tar.log >&2 || true
cp kernel/boot/vmlinuz* vmlinuz

root=$work/root
mkdir -p "$root"/{bin,sbin,proc,sys,dev,tmp,run,data,seed,lib/modules,lib64,usr/lib/x86_64-linux-gnu,etc/acpi,var/log}
ln -s ../run "$root/var/run"
cp "$(command -v busybox)" "$root/bin/busybox"
find kernel/lib/modules -name '*.ko' -exec cp -t "$root/lib/modules" {} +
# Each module says in its own `depends=` what must be loaded before it.
( cd "$root/lib/modules"
  for file in *.ko; do
    module=${file%.ko}; module=${module//-/_}
    [ "$file" = "$module.ko" ] || mv "$file" "$module.ko"
    echo "$module $module"
    for before in $(strings -a "$module.ko" | sed -n 's/^depends=//p' | head -n 1 | tr , ' '); do
      echo "${before//-/_} $module"
    done
  done | tsort > order )

# The guest agent with the libraries that it names, and those that these name.
for deb in deb/*.deb; do
  case $deb in *linux-image*) ;; *) dpkg-deb -x "$deb" agent ;; esac
done
cp agent/usr/sbin/qemu-ga "$root/sbin/"
names() { objdump -p "$1" 2>/dev/null | awk '$1 == "NEEDED" { print $2 }'; }
queue=(agent/usr/sbin/qemu-ga); declare -A seen=()
while [ ${#queue[@]} -gt 0 ]; do
  file=${queue[0]}; queue=("${queue[@]:1}")
  for name in $(names "$file"); do
    [ -z "${seen[$name]:-}" ] || continue
    seen[$name]=1
    found=$(find agent -name "$name" | head -n 1)
    [ -n "$found" ] || { echo "no package has the library $name" >&2; exit 1; }
    case $name in
      ld-linux*) cp -L "$found" "$root/lib64/" ;;
      *) cp -L "$found" "$root/usr/lib/x86_64-linux-gnu/"; queue+=("$found") ;;
    esac
  done
done
[ -e "$root/lib64/ld-linux-x86-64.so.2" ] || cp -L "$(find agent -name ld-linux-x86-64.so.2 | head -n 1)" "$root/lib64/"
ln -s usr/lib/x86_64-linux-gnu "$root/lib/x86_64-linux-gnu"

install -m 755 "$init" "$root/init"
cat > "$root/sbin/shutdown" <<'S'
#!/bin/busybox sh
# What the agent calls: shutdown -P|-H|-r +0 text
/bin/sync
/bin/umount /data
case "$*" in *-r*) exec /bin/reboot -f ;; *) exec /bin/poweroff -f ;; esac
S
chmod 755 "$root/sbin/shutdown"
find "$root" -exec touch -h -d @$SOURCE_DATE_EPOCH {} +
( cd "$root" && find . | sort | cpio -o -H newc --quiet --reproducible -R 0:0 | gzip -n -1 ) > initrd.img

# The disk: a gap of 1 MiB, 48 MiB of FAT to boot from, the rest ext4.
boot=48
truncate -s "$size" disk.raw
total=$(( $(stat -c %s disk.raw) / 1048576 ))
[ "$total" -ge $((boot + 32)) ] || { echo "the size $size is too small" >&2; exit 1; }
sfdisk -q disk.raw <<S
label: dos
label-id: 0x70047014
start=1MiB, size=${boot}MiB, type=6, bootable
start=$((boot + 1))MiB, type=83
S
mkfs.fat -F16 -n BOOT -i 70047014 -C boot.fat $((boot * 1024)) >/dev/null
cat > syslinux.cfg <<'S'
SERIAL 0 115200
DEFAULT linux
PROMPT 0
TIMEOUT 0
LABEL linux
 KERNEL vmlinuz
 INITRD initrd.img
 APPEND console=ttyS0 quiet loglevel=3 panic=-1 tsc=reliable no_timer_check
S
mcopy -i boot.fat vmlinuz initrd.img syslinux.cfg ::
syslinux --install boot.fat
dd if=boot.fat of=disk.raw bs=1M seek=1 conv=notrunc,sparse status=none
dd if=/usr/lib/syslinux/mbr/mbr.bin of=disk.raw bs=440 count=1 conv=notrunc status=none
mkdir data && echo "Portolan's demo guest" > data/about.txt
mke2fs -q -t ext4 -E lazy_itable_init=1,nodiscard,root_owner=0:0,hash_seed=70047014-0000-4000-8000-000000000001 \
  -U 70047014-0000-4000-8000-000000000002 -L data -d data data.ext4 $((total - boot - 1))M
dd if=data.ext4 of=disk.raw bs=1M seek=$((boot + 1)) conv=notrunc,sparse status=none
mkdir made
qemu-img convert -f raw -O qcow2 disk.raw made/demo-guest.qcow2
cp vmlinuz initrd.img made/
mv -T made "$out" 2>/dev/null || [ -s "$out/demo-guest.qcow2" ]
rm -f "$cache"/asked-*
echo "$key" > "$asked"
publish "$key"
