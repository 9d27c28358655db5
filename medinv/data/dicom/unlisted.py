"""What becomes of attributes that the profile's table does not list: kept only if known harmless.

The table names what identifies; new, retired and rare attributes that hold a name, a date or an
identifier are not in it (PatientBirthDateInAlternativeCalendar, BoardingPassID, EncryptedContent).
So text, dates and bytes are removed unless they stand below, where scanners write technical terms.
Numbers, codes of the standard (CS) and sequences stay; sequences are searched through.
"""

from __future__ import annotations

_FREE = frozenset(("PN", "DA", "DT", "TM", "ST", "LT", "UT", "UC", "UR", "LO", "SH", "AE", "AS",
                   "OB", "UN", "OB or OW"))  # value representations
_TERMS = """
    LongCodeValue URNCodeValue CodeValue ExtendedCodeValue CodeMeaning CodingSchemeDesignator
    CodingSchemeVersion CodingSchemeRegistry MappingResourceName DeidentificationMethod PixelData
    ICCProfile DimensionIndexPrivateCreator DimensionDescriptionLabel
    FunctionalGroupPrivateCreator PositionReferenceIndicator TargetPositionReferenceIndicator
    RescaleType ModalityLUTType LUTExplanation PixelValueMappingExplanation
    WindowCenterWidthExplanation PixelSpacingCalibrationDescription Manufacturer
    ManufacturerModelName ManufacturerModelVersion ManufacturerRelatedModelGroup SoftwareVersions
    ApplicationName ApplicationVersion ApplicationManufacturer AlgorithmName AlgorithmVersion
    SegmentAlgorithmName SecondaryCaptureDeviceManufacturer
    SecondaryCaptureDeviceManufacturerModelName SecondaryCaptureDeviceSoftwareVersions
    DigitalImageFormatAcquired VideoImageFormatAcquired DetectorManufacturerName
    DetectorManufacturerModelName SequenceName PulseSequenceName ImagedNucleus ReceiveCoilName
    ReceiveCoilManufacturerName TransmitCoilName TransmitCoilManufacturerName
    MultiCoilElementName MultiCoilConfiguration StackID TriggerSourceOrType CardiacFramingType
    ASLTechniqueDescription ASLBolusCutoffTechnique ContrastBolusRoute ConvolutionKernel
    FilterType TypeOfFilters CollimatorGridName PhosphorType PlateType
    AcquisitionDeviceProcessingCode AcquisitionMode OutputPower Radionuclide Radiopharmaceutical
    RadiopharmaceuticalRoute PVCRejection ReconstructionMethod AttenuationCorrectionMethod
    ScatterCorrectionMethod DetectorLinesOfResponseUsed EnergyWindowName OpticalPathIdentifier
    ReferencedOpticalPathIdentifier
"""
_KEPT = frozenset(_TERMS.split())
_ALIKE = frozenset((  # as attributes of the table that are removed, with another representation
    "PatientBodyMassIndex", "PatientAlternativeCalendar", "ModifiedImageID", "ReferencedFileID",
    "CarrierIDAssigningAuthority",
))


def is_kept(keyword: str, representation: str) -> bool:
    """Whether an attribute beyond the table may stay, by its name and value representation.

    >>> is_kept("PatientBirthDateInAlternativeCalendar", "LO"), is_kept("SequenceName", "SH")
    (False, True)
    """
    if keyword in _ALIKE:
        return False
    return keyword in _KEPT or representation not in _FREE
