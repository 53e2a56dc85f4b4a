// Loaded before the C library: a stream's send buffer is as small as the system allows, so that it takes parts of a
// frame.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <sys/socket.h>

typedef int open_socket(int, int, int);

int socket(int domain, int type, int protocol) {
    int opened = ((open_socket *)dlsym(RTLD_NEXT, "socket"))(domain, type, protocol);
    int smallest = 1;
    if ((type & 0xf) == SOCK_STREAM)
        setsockopt(opened, SOL_SOCKET, SO_SNDBUF, &smallest, sizeof smallest);
    return opened;
}
