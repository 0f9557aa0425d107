/*
 * Prints what a process can see and do where it runs: one line each, `subject: answer`, in an
 * order that does not depend on the machine. Two sandboxes are alike when these lines are.
 *
 * Linked statically, so that it runs in an image without a C library.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/utsname.h>
#include <sys/wait.h>
#include <unistd.h>

extern char **environ;

static int compare(const void *a, const void *b) {
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Lines that are gathered in any order and printed in one. */
static char *lines[4096];
static int count;

static void keep(const char *line) {
    if (count < 4096)
        lines[count++] = strdup(line);
}

static void flush_lines(void) {
    qsort(lines, count, sizeof *lines, compare);
    for (int at = 0; at < count; at++) {
        puts(lines[at]);
        free(lines[at]);
    }
    count = 0;
}

static void status(void) {
    static const char *const wanted[] = {
        "Umask", "Uid", "Gid", "Groups", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff",
        "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Speculation_Store_Bypass", "Cpus_allowed_list",
        "Mems_allowed_list", "CoreDumping", "THP_enabled", "NStgid", "NSpgid", "NSsid",
    };
    FILE *file = fopen("/proc/self/status", "r");
    char line[4096];
    while (file && fgets(line, sizeof line, file)) {
        char *colon = strchr(line, ':');
        if (!colon)
            continue;
        *colon = 0;
        for (size_t at = 0; at < sizeof wanted / sizeof *wanted; at++)
            if (!strcmp(line, wanted[at])) {
                char *value = colon + 1 + strspn(colon + 1, " \t");
                value[strcspn(value, "\n")] = 0;
                printf("status %s: %s\n", line, value);
            }
    }
    if (file)
        fclose(file);
}

static void text_of(const char *path) {
    FILE *file = fopen(path, "r");
    char line[4096];
    if (!file) {
        printf("text %s: %s\n", path, strerrorname_np(errno));
        return;
    }
    while (fgets(line, sizeof line, file)) {
        line[strcspn(line, "\n")] = 0;
        for (char *at = line; *at; at++)
            if (*at == '\t')
                *at = ' ';
        printf("text %s: %s\n", path, line);
    }
    fclose(file);
}

static void process(void) {
    int death = -1, dumpable = prctl(PR_GET_DUMPABLE), subreaper = -1;
    prctl(PR_GET_PDEATHSIG, &death);
    prctl(PR_GET_CHILD_SUBREAPER, &subreaper);
    printf("process pid: %d\n", getpid());
    printf("process parent: %d\n", getppid());
    printf("process group: %d\n", getpgrp());
    printf("process session: %d\n", getsid(0));
    printf("process signal at the parent's death: %d\n", death);
    printf("process dumpable: %d\n", dumpable);
    printf("process subreaper: %d\n", subreaper);
    printf("process secure bits: %d\n", prctl(PR_GET_SECUREBITS));
    printf("process keeps capabilities: %d\n", prctl(PR_GET_KEEPCAPS));
    printf("process timer slack: %d\n", prctl(PR_GET_TIMERSLACK));
    printf("process priority: %d\n", getpriority(PRIO_PROCESS, 0));
    printf("process scheduler: %d\n", sched_getscheduler(0));
    char *here = getcwd(NULL, 0);
    printf("process directory: %s\n", here ? here : strerrorname_np(errno));
    struct utsname names;
    uname(&names);
    printf("process host: %s\n", names.nodename);
    printf("process domain: %s\n", names.domainname);
    int terminal = open("/dev/tty", O_RDWR);
    printf("process terminal: %s\n", terminal < 0 ? strerrorname_np(errno) : "yes");
    text_of("/proc/self/oom_score_adj");
    text_of("/proc/self/uid_map");
    text_of("/proc/self/gid_map");
    text_of("/proc/self/setgroups");
    text_of("/proc/self/coredump_filter");
}

static void environment(void) {
    for (char **at = environ; *at; at++) {
        char line[4096];
        snprintf(line, sizeof line, "environment %s", *at);
        keep(line);
    }
    flush_lines();
}

static void limits(void) {
    static const char *const names[] = {
        "cpu", "fsize", "data", "stack", "core", "rss", "nproc", "nofile",
        "memlock", "as", "locks", "sigpending", "msgqueue", "nice", "rtprio", "rttime",
    };
    for (int at = 0; at < 16; at++) {
        struct rlimit limit;
        if (!getrlimit(at, &limit))
            printf("limit %s: %lld %lld\n", names[at], (long long)limit.rlim_cur,
                   (long long)limit.rlim_max);
    }
}

static void descriptors(void) {
    for (int fd = 0; fd < 1024; fd++) {
        struct stat it;
        if (fstat(fd, &it))
            continue;
        const char *kind = S_ISFIFO(it.st_mode)  ? "pipe"
                           : S_ISCHR(it.st_mode) ? "device"
                           : S_ISREG(it.st_mode) ? "file"
                           : S_ISDIR(it.st_mode) ? "directory"
                                                 : "other";
        printf("descriptor %d: %s %o", fd, kind, it.st_mode & 07777);
        if (S_ISCHR(it.st_mode))
            printf(" %u:%u", major(it.st_rdev), minor(it.st_rdev));
        printf(" access %d\n", fcntl(fd, F_GETFL) & O_ACCMODE);
    }
}

/* `36 35 98:0 /root /mount/point rw,… shared:1 - type source rw,…` */
static void mounts(void) {
    FILE *file = fopen("/proc/self/mountinfo", "r");
    char line[16384];
    while (file && fgets(line, sizeof line, file)) {
        char root[4096], target[4096], options[512], type[64], source[4096], super[8192];
        char *after = strstr(line, " - ");
        if (!after || sscanf(line, "%*s %*s %*s %4095s %4095s %511s", root, target, options) != 3)
            continue;
        if (sscanf(after, " - %63s %4095s %8191s", type, source, super) != 3)
            continue;
        const char *shared = strstr(line, "shared:")   ? " shared"
                             : strstr(line, "master:") ? " slave"
                                                       : "";
        char result[24000];
        int is_root = !strcmp(target, "/");
        int is_memory = !strcmp(type, "tmpfs") || !strcmp(type, "devpts");
        /* Where an image's files lie is the builder's own affair. */
        snprintf(result, sizeof result, "mount %s: %s %s%s%s%s", target, is_root ? "image" : type,
                 options, shared, is_memory ? " " : "", is_memory ? super : "");
        keep(result);
    }
    if (file)
        fclose(file);
    flush_lines();
}

static void tree(const char *path, int depth) {
    DIR *directory = opendir(path);
    for (struct dirent *entry; directory && (entry = readdir(directory));) {
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, ".."))
            continue;
        char name[4096], line[9000], target[4096] = "";
        snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        struct stat it;
        if (lstat(name, &it))
            continue;
        if (S_ISLNK(it.st_mode) && readlink(name, target, sizeof target - 1) < 0)
            continue;
        char device[64] = "";
        if (S_ISCHR(it.st_mode) || S_ISBLK(it.st_mode))
            snprintf(device, sizeof device, " %u:%u", major(it.st_rdev), minor(it.st_rdev));
        snprintf(line, sizeof line, "node %s: %o %u:%u%s%s%s", name, it.st_mode, it.st_uid,
                 it.st_gid, device, *target ? " -> " : "", target);
        keep(line);
        if (S_ISDIR(it.st_mode) && depth)
            tree(name, depth - 1);
    }
    if (directory)
        closedir(directory);
}

static const char *opened(const char *path, int flags) {
    int fd = open(path, flags | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (fd < 0)
        return strerrorname_np(errno);
    if (flags == O_WRONLY) {
        close(fd);
        return "opened";
    }
    char some[4096];
    ssize_t got = read(fd, some, sizeof some);
    const char *answer = got > 0 ? "something" : got == 0 ? "nothing" : strerrorname_np(errno);
    close(fd);
    return answer;
}

/* What is said to be covered or read-only, and what is dangerous if it is not. */
static void guarded(void) {
    static const char *const paths[] = {
        "/proc/acpi", "/proc/asound", "/proc/bus", "/proc/fs", "/proc/interrupts", "/proc/irq",
        "/proc/kcore", "/proc/keys", "/proc/kmsg", "/proc/kallsyms", "/proc/kpagecount",
        "/proc/latency_stats", "/proc/sched_debug", "/proc/scsi", "/proc/sys",
        "/proc/sys/kernel/core_pattern", "/proc/sys/kernel/hostname", "/proc/sys/vm/panic_on_oom",
        "/proc/sys/net/ipv4/ip_forward", "/proc/sys/fs/binfmt_misc", "/proc/sysrq-trigger",
        "/proc/timer_list", "/proc/timer_stats", "/proc/self/mem", "/proc/1/environ",
        "/proc/self/attr/exec", "/sys/firmware", "/sys/devices/virtual/powercap", "/sys/kernel/debug",
        "/sys/kernel/security", "/sys/fs/cgroup", "/sys/fs/cgroup/cgroup.procs",
        "/sys/fs/cgroup/devices/devices.allow", "/sys/fs/bpf", "/dev/mem", "/dev/kmsg", "/dev/core",
        "/dev/full", "/dev/console",
    };
    for (size_t at = 0; at < sizeof paths / sizeof *paths; at++) {
        struct stat it;
        if (lstat(paths[at], &it)) {
            printf("guarded %s: %s\n", paths[at], strerrorname_np(errno));
            continue;
        }
        printf("guarded %s: %o read %s write %s\n", paths[at], it.st_mode,
               opened(paths[at], O_RDONLY), opened(paths[at], O_WRONLY));
    }
}

/* Devices that can be made, and what then can be done with them. */
static void devices(void) {
    static const struct {
        mode_t kind;
        unsigned major, minor;
    } some[] = {
        {S_IFCHR, 1, 1}, {S_IFCHR, 1, 3},   {S_IFCHR, 1, 5},    {S_IFCHR, 1, 11},
        {S_IFCHR, 5, 1}, {S_IFCHR, 10, 200}, {S_IFCHR, 10, 229}, {S_IFBLK, 7, 0},
        {S_IFBLK, 8, 0}, {S_IFBLK, 254, 0},
    };
    const char *path = "/view-device";
    for (size_t at = 0; at < sizeof some / sizeof *some; at++) {
        unlink(path);
        const char *made = "made";
        if (mknod(path, some[at].kind | 0600, makedev(some[at].major, some[at].minor)))
            made = strerrorname_np(errno);
        printf("device %s %u:%u: %s", some[at].kind == S_IFCHR ? "character" : "block",
               some[at].major, some[at].minor, made);
        if (!strcmp(made, "made")) {
            int fd = open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
            const char *answer = fd < 0 ? strerrorname_np(errno) : "opened";
            /* A device that this machine lacks says so only to who may ask. */
            printf(", %s", !strcmp(answer, "EPERM") ? "EPERM" : "allowed");
            if (fd >= 0)
                close(fd);
        }
        putchar('\n');
    }
    unlink(path);
}

struct answer {
    volatile long value;
    volatile int done;
};

static long call_native(long number, long with) {
    long answer;
    register long r10 __asm__("r10") = with, r8 __asm__("r8") = with, r9 __asm__("r9") = with;
    __asm__ volatile("syscall"
                     : "=a"(answer)
                     : "a"(number), "D"(with), "S"(with), "d"(with), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return answer;
}

static long call_32(long number, long with) {
    long answer;
    __asm__ volatile("push %%rbx\n mov %2, %%rbx\n int $0x80\n pop %%rbx"
                     : "=a"(answer)
                     : "a"(number), "r"(with), "c"(with), "d"(with), "S"(with), "D"(with)
                     : "memory", "r8", "r9", "r10", "r11");
    return (int)answer;
}

/* In a child, which may block, die or become two. */
static void ask(const char *table, long number, long (*call)(long, long), long with,
                struct answer *answer, char *text) {
    (void)table;
    answer->done = 0;
    pid_t child = fork();
    if (!child) {
        struct itimerval patience = {.it_value = {.tv_sec = 2}};
        setitimer(ITIMER_REAL, &patience, NULL);
        /* Many calls ask for descriptor 0, which need not be alike. */
        dup2(open("/dev/null", O_RDONLY), 0);
        close(1);
        pid_t self = getpid();
        long value = call(number, with);
        if (getpid() != self)
            _exit(0);
        answer->value = value;
        answer->done = 1;
        _exit(0);
    }
    int ended = 0;
    waitpid(child, &ended, 0);
    if (answer->done && answer->value < 0 && answer->value > -4096) {
        const char *name = strerrorname_np(-answer->value);
        sprintf(text, "%s", name ? name : "?");
    } else if (answer->done) {
        sprintf(text, "ok");
    } else if (WIFSIGNALED(ended)) {
        sprintf(text, "SIG%s", sigabbrev_np(WTERMSIG(ended)));
    } else {
        sprintf(text, "ended");
    }
}

static int among(long number, const int *list) {
    for (; *list >= 0; list++)
        if (*list == number)
            return 1;
    return 0;
}

/* Asks for every system call twice, with arguments that are all 0 and all -1. */
static void calls(const char *table, long first, long last, long (*call)(long, long),
                  const int *left_out) {
    struct answer *answer =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    for (long number = first; number <= last; number++) {
        char zeros[64], ones[64];
        if (among(number, left_out))
            continue;
        ask(table, number, call, 0, answer, zeros);
        ask(table, number, call, -1, answer, ones);
        printf("call %s %ld: %s %s\n", table, number, zeros, ones);
        fflush(stdout);
    }
}

/* With arguments that the filter looks at. */
static void chosen_calls(void) {
    for (int family = 0; family < 46; family++) {
        int fd = syscall(41, family, SOCK_STREAM, 0);
        printf("socket family %d: %s\n", family, fd < 0 ? strerrorname_np(errno) : "ok");
        if (fd >= 0)
            close(fd);
    }
    static const unsigned long personalities[] = {0, 8, 0x20000, 0x20008, 0x40000, 0x400000,
                                                  0xffffffff};
    for (size_t at = 0; at < sizeof personalities / sizeof *personalities; at++) {
        long before = syscall(135, 0xffffffffUL);
        long answer = syscall(135, personalities[at]);
        printf("personality %lx: %s\n", personalities[at],
               answer < 0 ? strerrorname_np(errno) : "ok");
        syscall(135, before);
    }
    static const unsigned long clones[] = {CLONE_NEWUSER, CLONE_NEWNS, CLONE_NEWNET, CLONE_NEWPID,
                                           CLONE_NEWCGROUP, CLONE_NEWUTS, CLONE_NEWIPC};
    for (size_t at = 0; at < sizeof clones / sizeof *clones; at++) {
        pid_t child = syscall(56, clones[at] | SIGCHLD, 0, 0, 0, 0);
        if (!child)
            _exit(0);
        printf("clone %lx: %s\n", clones[at], child < 0 ? strerrorname_np(errno) : "ok");
        if (child > 0)
            waitpid(child, NULL, 0);
        int alone = syscall(272, clones[at]);
        printf("unshare %lx: %s\n", clones[at], alone < 0 ? strerrorname_np(errno) : "ok");
    }
}

/* Says something through a socket and prints the answer. */
static int talk(const char *path) {
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    strncpy(address.sun_path, path, sizeof address.sun_path - 1);
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);
    struct stat it;
    if (stat(path, &it) || connect(fd, (struct sockaddr *)&address, sizeof address)) {
        perror(path);
        return 1;
    }
    char answer[256];
    dprintf(fd, "hello\n");
    ssize_t got = read(fd, answer, sizeof answer - 1);
    answer[got < 0 ? 0 : got] = 0;
    printf("%o %u:%u %s", it.st_mode & 07777, it.st_uid, it.st_gid, answer);
    return 0;
}

int main(int argc, char **argv) {
    if (argc > 2 && !strcmp(argv[1], "talk"))
        return talk(argv[2]);
    setvbuf(stdout, NULL, _IOFBF, 1 << 16);
    process();
    status();
    environment();
    limits();
    descriptors();
    mounts();
    tree("/dev", 2);
    tree("/run", 1);
    flush_lines();
    guarded();
    devices();
    text_of("/etc/hosts");
    text_of("/etc/resolv.conf");
    if (argc > 1 && !strcmp(argv[1], "calls")) {
        /* fork and vfork become two, exit and sigreturn do not come back, the rest wait for ever
         * or for the disks. */
        static const int native[] = {15, 23, 34, 57, 58, 60, 162, 231, 270, 271, 449, -1};
        static const int old[] = {1, 2, 29, 36, 72, 82, 119, 142, 173, 190, 252, 308, 309, 413,
                                  414, 449, -1};
        chosen_calls();
        fflush(stdout);
        calls("x86_64", 0, 470, call_native, native);
        calls("i386", 0, 470, call_32, old);
        calls("x32", 0x40000000, 0x40000000 + 16, call_native,
              (int[]){0x40000000 + 15, -1});
    }
    return 0;
}
