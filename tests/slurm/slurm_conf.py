"""The files in etc/ of a private Slurm: what it takes to run unprivileged on loopback."""

from __future__ import annotations

import getpass
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

MEMORY_GROUPS = Path("/sys/fs/cgroup/memory")


class Wanted(Protocol):
    """What the files depend on."""

    home: Path
    port: int
    nodes: int
    cpus: int
    gpus: int
    accounting: bool
    confines_memory: bool
    settings: Mapping[str, str]


def slurm_conf(cluster: Wanted) -> str:
    """Write slurm.conf: one host that plays all nodes, and three partitions.

    `main` is not preempted, `low` is requeued when others need its nodes, `short` ends jobs after a
    minute.
    """
    host, (address, _) = _host(), loopback()
    ports = f"[{cluster.port + 101}-{cluster.port + 100 + cluster.nodes}]"
    gres = f"Gres=gpu:{cluster.gpus} " if cluster.gpus else ""
    lines = [f"{name}={value}" for name, value in _settings(cluster).items()]
    lines += [
        f"NodeName=n[1-{cluster.nodes}] NodeHostname={host} NodeAddr={address} Port={ports} "
        f"CPUs={cluster.cpus} RealMemory=16000 {gres}State=UNKNOWN",
        "PartitionName=DEFAULT Nodes=ALL DefaultTime=10 State=UP",
        "PartitionName=main Default=YES PriorityTier=10 PreemptMode=OFF",
        "PartitionName=low PriorityTier=1 PreemptMode=REQUEUE GraceTime=5",
        "PartitionName=short DefaultTime=1 MaxTime=1 PriorityTier=10 PreemptMode=OFF",
    ]
    return "\n".join(lines) + "\n"


def _settings(cluster: Wanted) -> dict[str, str]:
    home, (address, listen) = cluster.home, loopback()
    return {
        "ClusterName": "dev",
        "SlurmctldHost": f"{_host()}({address})",
        "SlurmUser": getpass.getuser(),
        "SlurmdUser": getpass.getuser(),
        "AuthType": "auth/none",
        "CredType": "cred/none",
        # A requeued job waits as long as its credential lives, 120 s unless told.
        "AuthInfo": "cred_expire=8",
        "SlurmctldPort": str(cluster.port + 1),
        "SlurmdPort": str(cluster.port + 2),
        **({"CommunicationParameters": "NoCtldInAddrAny,NoInAddrAny"} if listen else {}),
        "SlurmctldPidFile": f"{home}/run/slurmctld.pid",
        "SlurmdPidFile": f"{home}/run/slurmd.%n.pid",
        "SlurmctldLogFile": f"{home}/log/slurmctld.log",
        "SlurmdLogFile": f"{home}/log/slurmd.%n.log",
        "StateSaveLocation": f"{home}/state",
        "SlurmdSpoolDir": f"{home}/spool/%n",
        "MailProg": "/bin/true",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/cgroup" if cluster.confines_memory else "task/none",
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_CPU_Memory",
        # Unless told, a job without --mem takes a whole node's memory.
        "DefMemPerCPU": "100",
        "GresTypes": "gpu",
        # The nodes may claim more cores than the host has.
        "SlurmdParameters": "config_overrides",
        "SlurmctldParameters": "preempt_send_user_signal,idle_on_node_suspend",
        # Jobs start within a second of their submission instead of three.
        "SchedulerParameters": "batch_sched_delay=1,sched_interval=1,bf_interval=1,"
        "default_queue_depth=200,requeue_setup_env_fail",
        "ReturnToService": "2",
        "SlurmdTimeout": "20",
        "SlurmctldTimeout": "30",
        # Well under cred_expire, or a requeued job meets its own last moments on the node.
        "KillWait": "2",
        "MinJobAge": "300",
        "JobRequeue": "1",
        "MaxArraySize": "10001",
        "MaxJobCount": "30000",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        **(_accounting(cluster, address) if cluster.accounting else {}),
        **cluster.settings,
    }


def _accounting(cluster: Wanted, address: str) -> dict[str, str]:
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": address,
        "AccountingStoragePort": str(cluster.port + 3),
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": "gres/gpu",
        "AccountingStoreFlags": "job_comment",
    }


def slurmdbd_conf(cluster: Wanted) -> str:
    """Write slurmdbd.conf: accounting in a MariaDB of our own."""
    address, listen = loopback()
    settings = {
        "AuthType": "auth/none",
        "AuthInfo": "cred_expire=8",
        "DbdHost": _host(),
        "DbdAddr": address,
        "DbdPort": str(cluster.port + 3),
        **({"CommunicationParameters": "NoInAddrAny"} if listen else {}),
        "SlurmUser": getpass.getuser(),
        "LogFile": f"{cluster.home}/log/slurmdbd.log",
        "PidFile": f"{cluster.home}/run/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "127.0.0.1",
        "StoragePort": str(cluster.port + 6),
        "StorageUser": "slurm",
        "StoragePass": "slurm",
        "StorageLoc": "slurm_acct_db",
    }
    return "".join(f"{name}={value}\n" for name, value in settings.items())


def cgroup_conf(cluster: Wanted, plugin: str) -> str:
    """Write cgroup.conf: inert, or with a limit on the memory of each job."""
    lines = [f"CgroupPlugin={plugin}"]
    if cluster.confines_memory:
        lines = ["CgroupPlugin=cgroup/v1", f"CgroupMountpoint={MEMORY_GROUPS.parent}"]
        lines += ["ConstrainRAMSpace=yes", "ConstrainSwapSpace=yes", "AllowedSwapSpace=0"]
        # 30 MB is the least that Slurm would give.
        lines += ["MinRAMSpace=10"]
    return "\n".join(lines) + "\n"


def gres_conf(cluster: Wanted) -> str:
    """Write gres.conf: the fake GPUs of every node."""
    if not cluster.gpus:
        return ""
    files = f"{cluster.home}/gpus/gpu[0-{cluster.gpus - 1}]"
    return f"NodeName=n[1-{cluster.nodes}] Name=gpu File={files}\n"


def loopback() -> tuple[str, bool]:
    """Return the address that the daemons speak to, and whether they can listen on it alone.

    With NoInAddrAny Slurm listens on the address that the host's own name resolves to. A name that
    does not resolve, or to 127.0.1.1 as Debian has it, cannot be used so: then the daemons listen
    on every address.
    """
    try:
        address = socket.gethostbyname(socket.gethostname())
    except OSError:
        return "127.0.0.1", False
    if address.startswith("127.") and address != "127.0.0.1":
        return "127.0.0.1", False
    return address, True


def _host() -> str:
    return socket.gethostname().partition(".")[0]
