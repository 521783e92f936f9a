// Entered by QEMU or GRUB in 32-bit protected mode with ebx = the multiboot information.
// Builds the first page tables, switches to long mode and calls the Rust part.
//
// Tables, one page each: 0 level 4, 1 level 3, 2-5 level 2 (one per GiB), 6 level 1 of the first 2 MiB.
// All of memory is mapped to itself, writable and executable; paging.rs takes away what is too much.

    .section .multiboot, "ax"
    .code32
    .set MAGIC, 0x1BADB002
    .set FLAGS, 0x10003              // modules on pages, memory map wanted, addresses below are valid
    .balign 4
multiboot:
    .4byte MAGIC, FLAGS, -(MAGIC + FLAGS)
    .4byte multiboot, multiboot, _load_end, _end, _start

    .global _start
_start:
    cli
    cld
    mov esp, OFFSET {stack} + {stack_size}
    mov ebp, eax                     // multiboot's magic number
    mov edi, ebx

    mov eax, 0x83                    // 2 MiB page, writable, present
    mov ebx, OFFSET {tables} + 0x2000
    mov ecx, 2048
2:  mov [ebx], eax
    mov dword ptr [ebx + 4], 0
    add ebx, 8
    add eax, 0x200000
    loop 2b

    mov eax, OFFSET {tables} + 0x1003
    mov [{tables}], eax
    mov eax, OFFSET {tables} + 0x2003
    mov ebx, OFFSET {tables} + 0x1000
    mov ecx, 4
3:  mov [ebx], eax
    add ebx, 8
    add eax, 0x1000
    loop 3b

    mov eax, 3                       // the first 2 MiB in small pages
    mov ebx, OFFSET {tables} + 0x6000
    mov ecx, 512
4:  mov [ebx], eax
    add ebx, 8
    add eax, 0x1000
    loop 4b
    mov eax, OFFSET {tables} + 0x6003
    mov [{tables} + 0x2000], eax

    mov eax, OFFSET {tables}
    mov cr3, eax
    mov eax, cr4
    or eax, 0x20                     // physical address extension
    mov cr4, eax
    mov ecx, 0xC0000080              // EFER: long mode, no-execute
    rdmsr
    or eax, 0x900
    wrmsr
    mov eax, cr0
    or eax, 0x80010000               // paging, write protection for the kernel too
    mov cr0, eax
    lgdt [gdt_pointer]
    push 8                           // a far jump into the 64-bit code segment
    mov eax, OFFSET long_mode
    push eax
    retf

    .balign 8
gdt:
    .8byte 0, 0x00af9b000000ffff, 0x00cf93000000ffff
gdt_pointer:
    .2byte 23
    .4byte gdt

    .code64
long_mode:
    mov eax, 16
    mov ds, eax
    mov es, eax
    mov ss, eax
    xor eax, eax
    mov fs, eax
    mov gs, eax
    mov edi, edi
    mov esi, ebp
    call {main}
