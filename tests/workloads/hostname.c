/* Host and domain name that the program has set itself. needs: privileged, needs: container */
#include "workload.h"
#include <sys/utsname.h>

int main(int argc, char **argv)
{
    struct utsname names;
    begin(argc, argv);
    MUST(sethostname("ferry-man", 9));
    MUST(setdomainname("river.example", 13));
    ready_then_go();
    MUST(uname(&names));
    CHECK(!strcmp(names.nodename, "ferry-man"), "host name %s", names.nodename);
    CHECK(!strcmp(names.domainname, "river.example"), "domain name %s", names.domainname);
    pass();
}
