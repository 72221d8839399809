//! Which system calls stop a recorded program: a seccomp filter, as only the kernel can tell calls apart cheaply.
//!
//! Everything else runs at full speed. The filter is installed by `cloakroom-traced` between its start and the
//! `exec` of the recorded program, when the tracer already holds it.

use nix::libc;
use seccompiler::sock_filter;

/// Calls that change files or sync them, and those by which an answer leaves.
const TRACED: [i64; 33] = [
    libc::SYS_open,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_creat,
    libc::SYS_write,
    libc::SYS_pwrite64,
    libc::SYS_writev,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_truncate,
    libc::SYS_ftruncate,
    libc::SYS_fallocate,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_unlink,
    libc::SYS_unlinkat,
    libc::SYS_mkdir,
    libc::SYS_mkdirat,
    libc::SYS_rmdir,
    libc::SYS_link,
    libc::SYS_linkat,
    libc::SYS_symlink,
    libc::SYS_symlinkat,
    libc::SYS_fsync,
    libc::SYS_fdatasync,
    libc::SYS_sync_file_range,
    libc::SYS_msync,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_copy_file_range,
    libc::SYS_sendfile,
    libc::SYS_splice,
];

/// x86-64's name in a filter's data.
const ARCHITECTURE: u32 = 0xc000_003e;
const NUMBER_AT: u32 = 0;
const ARCHITECTURE_AT: u32 = 4;
const ARGUMENTS_AT: u32 = 16;

const LOAD: u16 = 0x20; // BPF_LD | BPF_W | BPF_ABS
const IF_EQUAL: u16 = 0x15; // BPF_JMP | BPF_JEQ | BPF_K
const IF_ANY_BIT: u16 = 0x45; // BPF_JMP | BPF_JSET | BPF_K
const RETURN: u16 = 0x06; // BPF_RET | BPF_K

/// The filter. A mapping that others could see is traced, as its writes would not be; io_uring, which would pass
/// every filter by, is refused as an old kernel does. Where `stay_dumpable` holds, the wish not to be is granted
/// in word alone: without the rights of root a tracer could not look into its own child any more.
pub fn program(stay_dumpable: bool) -> Vec<sock_filter> {
    let trace = libc::SECCOMP_RET_TRACE;
    let errno = |errno: i32| libc::SECCOMP_RET_ERRNO | errno.unsigned_abs();
    let mut filter = vec![
        step(LOAD, 0, 0, ARCHITECTURE_AT),
        step(IF_EQUAL, 1, 0, ARCHITECTURE),
        step(RETURN, 0, 0, libc::SECCOMP_RET_KILL_PROCESS),
        step(LOAD, 0, 0, NUMBER_AT),
    ];
    for call in TRACED {
        filter.extend([step(IF_EQUAL, 0, 1, number(call)), step(RETURN, 0, 0, trace)]);
    }
    filter.extend([
        step(IF_EQUAL, 0, 1, number(libc::SYS_io_uring_setup)),
        step(RETURN, 0, 0, errno(libc::ENOSYS)),
    ]);
    filter.extend(if_argument(libc::SYS_mmap, 3, IF_ANY_BIT, libc::MAP_SHARED, trace));
    if stay_dumpable {
        filter.extend(if_argument(libc::SYS_prctl, 0, IF_EQUAL, libc::PR_SET_DUMPABLE, errno(0)));
    }
    filter.push(step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW));
    filter
}

/// Answers a call with `verdict` if its argument is, or has, `wanted`, and else lets it pass.
fn if_argument(call: i64, argument: u32, how: u16, wanted: i32, verdict: u32) -> [sock_filter; 5] {
    [
        step(IF_EQUAL, 0, 4, number(call)),
        step(LOAD, 0, 0, ARGUMENTS_AT + 8 * argument),
        step(how, 0, 1, wanted.unsigned_abs()),
        step(RETURN, 0, 0, verdict),
        step(RETURN, 0, 0, libc::SECCOMP_RET_ALLOW),
    ]
}

fn step(code: u16, jt: u8, jf: u8, k: u32) -> sock_filter {
    sock_filter { code, jt, jf, k }
}

fn number(call: i64) -> u32 {
    u32::try_from(call).expect("the kernel's numbers are small")
}
